"""The Arrow schema of each stage's shards.

One row is one example (ingest, gold_score) or one (example, view) (the others). Token columns are single-level lists of
int32, and top-K columns are flat: `topk_count` says how many of `topk_ids` belong to each position, because lists of
lists read 8 to 12 times slower. Positions are those of the SQL with its EOS: 0 is the first SQL token.
"""

import pyarrow as pa

_IDS = pa.list_(pa.int32())
_KEY = [pa.field("example_id", pa.string(), nullable=False), pa.field("db_id", pa.string(), nullable=False)]
_VIEW = pa.field("view", pa.int16(), nullable=False)
_TOKENS = [
    pa.field("prompt_ids", _IDS, nullable=False),
    pa.field("gold_ids", _IDS, nullable=False),
]
_TOPK = [
    pa.field("topk_count", pa.list_(pa.int16()), nullable=False),
    pa.field("topk_ids", _IDS, nullable=False),
    pa.field("topk_logprobs", pa.list_(pa.float16()), nullable=False),
    pa.field("tail", pa.list_(pa.float32()), nullable=False),
    pa.field("actual_logprob", pa.list_(pa.float32()), nullable=False),
]

# A row with a `reason` is set aside: it keeps its id, and its token columns are empty.
INGEST = pa.schema(
    [
        *_KEY,
        pa.field("question", pa.string(), nullable=False),
        pa.field("gold_sql", pa.string(), nullable=False),
        pa.field("schema_tokens", pa.int32(), nullable=False),
        *_TOKENS,
        # The character of gold_sql at which each gold token starts; schema masking finds identifiers with it.
        pa.field("gold_starts", _IDS, nullable=False),
        pa.field("reason", pa.string()),
    ]
)
# gold_ids and imperfect_ids are without EOS; the scored sequence is prompt + SQL + EOS.
GOLD_SCORE = pa.schema([*_KEY, *_TOKENS, *_TOPK])
MASK = pa.schema([*_KEY, _VIEW, pa.field("strategy", pa.string(), nullable=False), pa.field("masked", _IDS, nullable=False)])
# hole_ids and hole_logprobs are the predictor's best k at each masked position, flat, k to a hole.
PREDICT = pa.schema(
    [
        *_KEY,
        _VIEW,
        pa.field("masked", _IDS, nullable=False),
        pa.field("filled_ids", _IDS, nullable=False),
        pa.field("hole_ids", _IDS, nullable=False),
        pa.field("hole_logprobs", pa.list_(pa.float32()), nullable=False),
    ]
)
REWRITE = pa.schema(
    [
        *_KEY,
        _VIEW,
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("masked", _IDS, nullable=False),
        pa.field("imperfect_ids", _IDS, nullable=False),
        pa.field("imperfect_sql", pa.string(), nullable=False),
        pa.field("num_masked", pa.int32(), nullable=False),
        pa.field("num_rewritten", pa.int32(), nullable=False),
        pa.field("rewritten", pa.float32(), nullable=False),
        pa.field("parses", pa.bool_(), nullable=False),
    ]
)
OUTCOME = pa.schema(
    [
        *_KEY,
        _VIEW,
        pa.field("executes", pa.bool_(), nullable=False),
        pa.field("same_result", pa.bool_(), nullable=False),
    ]
)
# generated_ids is without EOS. A row with a `reason` is not trained on.
GENERATE = pa.schema(
    [
        *_KEY,
        _VIEW,
        pa.field("prompt_ids", _IDS, nullable=False),
        pa.field("generated_ids", _IDS, nullable=False),
        pa.field("generated_sql", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
# An answer of a student, without EOS, under the names of an imperfect query: it is scored and taught as one. `masked` is empty.
ROLLOUT = pa.schema(
    [
        *_KEY,
        _VIEW,
        pa.field("masked", _IDS, nullable=False),
        pa.field("imperfect_ids", _IDS, nullable=False),
        pa.field("imperfect_sql", pa.string(), nullable=False),
        pa.field("parses", pa.bool_(), nullable=False),
        # Whether the answer ended by itself; one that was cut is taught up to there.
        pa.field("ends", pa.bool_(), nullable=False),
    ]
)
SCORE = pa.schema(
    [
        *_KEY,
        _VIEW,
        *_TOKENS,
        pa.field("imperfect_ids", _IDS, nullable=False),
        pa.field("masked", _IDS, nullable=False),
        *_TOPK,
        # NaN where the gold token is neither the actual one nor among the engine's top K.
        pa.field("gold_logprob", pa.list_(pa.float32()), nullable=False),
    ]
)
# As of other imperfect queries; an answer is of another length than gold, and its gold_logprob is that of its own tokens.
ROLLOUT_SCORE = SCORE
ROLLOUT_OUTCOME = OUTCOME
