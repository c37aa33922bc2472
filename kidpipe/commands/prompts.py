"""A model or a manifest in, the builder of the prompts it was made with out; and `kidpipe prompt`."""

import logging
from pathlib import Path
from typing import Any

from kidcore.config.config import PROMPT_TEMPLATES, IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder, PromptDefinition
from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.manifest import Manifest, kept_manifest, read_manifest
from kidcore.store.prompts import prompt_folder
from kidcore.store.store import Store
from kidpipe.commands.session import Session

_LOG = logging.getLogger(__name__)


def builder_of_model(session: Session, model: Path) -> PromptBuilder:
    """The prompts a model was trained with: those saved with it, else its run's, else those of the configuration."""
    tokenizer = load_tokenizer(model)
    if (model / PROMPT_FOLDER).is_dir():
        return PromptBuilder.load(model / PROMPT_FOLDER, tokenizer)
    run = session.store.read_json(f"runs/{model.parent.name}/manifest.json")
    manifest = kept_manifest(session.store, run["digest"]) if run else None
    if manifest is None:
        return PromptBuilder.of(_settled(session, tokenizer), tokenizer)
    return PromptBuilder(definition_of_manifest(session.store, manifest, tokenizer), tokenizer)


def _settled(session: Session, tokenizer: Any) -> IngestSettings:
    """The configuration's prompts, with `ingest.chat = auto` as the latest build has it."""
    settings = session.config.ingest
    if settings.chat != "auto":
        return settings
    latest = read_manifest(session.store)
    if latest is None and getattr(tokenizer, "chat_template", None):
        _LOG.warning("ingest.chat = auto is not decided before the first build: the model is asked without its chat template")
    is_chat = latest is not None and latest.stages["ingest"].settings["ingest.chat"] and bool(tokenizer.chat_template)
    return settings.model_copy(update={"chat": True} if is_chat else {"chat": False, "chat_arguments": {}})


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
