"""What a build imports, imported ahead by the fork server."""

import transformers.models.auto.modeling_auto
import transformers.models.qwen2.modeling_qwen2  # noqa: F401

import kidcore.models.backends.transformers  # noqa: F401
import pipeline.build
import pipeline.ingest
import pipeline.mask
import pipeline.outcome
import pipeline.predict
import pipeline.rewrite
import pipeline.score  # noqa: F401
