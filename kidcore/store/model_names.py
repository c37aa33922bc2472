"""What a store's models were called when it was built: who a model was that is not on this machine any more."""

from kidcore.store.kept_knowledge import read_memory
from kidcore.store.store import Store

_FILE = "models.json"


def remember_model(store: Store, identity: str, name: str) -> None:
    """Note that the model of this identity was found as `name`; the caller holds the store's lock."""
    known = _read(store)
    if name and name not in known.get(identity, []):
        store.write_json(_FILE, known | {identity: sorted([*known.get(identity, []), name])})


def model_names(store: Store, identity: str) -> list[str]:
    """The names that the model of this identity was found as; none where the store does not know."""
    return _read(store).get(identity, [])


def _read(store: Store) -> dict[str, list[str]]:
    known = read_memory(store, _FILE)
    if not isinstance(known, dict):
        return {}
    return {identity: names for identity, names in known.items() if isinstance(names, list) and all(map(_is_text, names))}


def _is_text(name: object) -> bool:
    return isinstance(name, str)
