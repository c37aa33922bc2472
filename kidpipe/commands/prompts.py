"""A model or a manifest in, the builder of the prompts it was made with out; and `kidpipe prompt`."""

from pathlib import Path
from typing import Any

from kidcore.config.config import PROMPT_TEMPLATES, IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder, PromptDefinition
from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.manifest import Manifest, kept_manifest
from kidcore.store.prompts import prompt_folder
from kidcore.store.store import Store
from kidpipe.commands.session import Session


def builder_of_model(session: Session, model: Path) -> PromptBuilder:
    """The prompts a model was trained with: those saved with it, else its run's, else those of the configuration."""
    tokenizer = load_tokenizer(model)
    if (model / PROMPT_FOLDER).is_dir():
        return PromptBuilder.load(model / PROMPT_FOLDER, tokenizer)
    run = session.store.read_json(f"runs/{model.parent.name}/manifest.json")
    manifest = kept_manifest(session.store, run["digest"]) if run else None
    if manifest is None:
        return PromptBuilder.of(session.config.ingest, tokenizer)
    return PromptBuilder(definition_of_manifest(session.store, manifest, tokenizer), tokenizer)


def definition_of_manifest(store: Store, manifest: Manifest, tokenizer: Any) -> PromptDefinition:
    """The prompts that a build made: as it kept them, or, for builds that kept none, as its settings say."""
    recorded = manifest.stages["ingest"].settings
    folder = prompt_folder(store, recorded)
    if folder.is_dir():
        return PromptDefinition.load(folder)
    settings = {key.removeprefix("ingest."): value for key, value in recorded.items() if key.startswith("ingest.")}
    if settings.get("template") not in PROMPT_TEMPLATES:
        raise KidpipeError("the build's prompt template is not there any more", where=str(folder), fix="kidpipe build-imperfect")
    return PromptDefinition.of(IngestSettings.model_validate(settings), tokenizer)
