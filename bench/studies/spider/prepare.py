"""Spider and Spider-Syn in, the study's data folder out: `python bench/studies/spider/prepare.py SPIDER SPIDER_SYN OUT`.

Training questions are Spider's as they are. The held-out ones are asked in both wordings: each of `dev.json`, then those that
Spider-Syn really words otherwise. Databases are linked, not copied.
"""

import json
import sys
from pathlib import Path


def prepare(spider: Path, syn: Path, out: Path) -> None:
    """Write `out` in Spider's layout."""
    out.mkdir(parents=True, exist_ok=True)
    dev = json.loads((spider / "dev.json").read_text(encoding="utf-8"))
    keys = ("db_id", "question", "query")
    plain = [{key: row[key] for key in keys} for row in dev]
    reworded = [
        {"db_id": row["db_id"], "question": row["SpiderSynQuestion"], "query": row["query"]}
        for row in json.loads((syn / "dev.json").read_text(encoding="utf-8"))
        if row["SpiderSynQuestion"].strip().lower() != row["SpiderQuestion"].strip().lower()
    ]
    (out / "dev.json").write_text(json.dumps(plain + reworded, ensure_ascii=False, indent=1), encoding="utf-8")
    for name in ("train_spider.json", "tables.json", "database"):
        target = out / name
        target.unlink(missing_ok=True)
        target.symlink_to((spider / name).resolve())
    print(f"{out}: {len(plain)} questions held out as Spider words them, {len(reworded)} as Spider-Syn does")


if __name__ == "__main__":
    prepare(*map(Path, sys.argv[1:4]))
