"""A saved student asked with transformers alone, as any program would: a system message with the schema, a user message.

python examples/ask_student.py STUDENT DATABASE QUESTION
"""

# %% The schema as the student was trained with it.
import subprocess
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

student, database, question = sys.argv[1:4]
command = [sys.executable, "-m", "kidpipe", "prompt", "", student, "--db", database]
schema = subprocess.run(command, check=True, capture_output=True, text=True).stdout

# %% The student's own chat template writes the tokens of training.
tokenizer = AutoTokenizer.from_pretrained(student)
model = AutoModelForCausalLM.from_pretrained(student)
messages = [{"role": "system", "content": schema}, {"role": "user", "content": question}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=64, do_sample=False)
print("sql:", tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
