"""What a model thinks of gold in; the same as JSON and as lines to read, with what speaks against it, out."""

from collections.abc import Mapping

from kidcore.method.knowledge import GoldKnowledge, teachers_faults


def on_gold(knowledge: GoldKnowledge | None) -> dict[str, object] | None:
    """The teacher's figures on gold, and what speaks against it; None where it has not scored gold."""
    return None if knowledge is None else knowledge.as_json() | {"warnings": teachers_faults(knowledge)}


def on_gold_lines(figures: Mapping[str, object] | None) -> list[str]:
    """The same to read."""
    knowledge = GoldKnowledge.from_json(figures)
    if knowledge is None:
        return []
    return [f"on gold     {knowledge}", *(f"warning     {fault}" for fault in teachers_faults(knowledge))]
