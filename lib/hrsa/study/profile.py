"""The profile: one YAML file that says what to study. Its sections and their defaults are in `hrsa.study.sections`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from hrsa.study import store
from hrsa.study.sections import (
    NAME_PATTERN,
    Ablation,
    Analysis,
    Backbone,
    Control,
    Lora,
    Mining,
    Model,
    Name,
    Once,
    Pair,
    Recipe,
    Section,
    Seed,
    Suite,
    Text,
    Title,
    Verdict,
    Zoo,
)

__all__ = ["Ablation", "Analysis", "Backbone", "Control", "Lora", "Mining", "Model", "Pair", "Profile", "Recipe",
           "Suite", "Verdict", "Zoo", "load_profile"]
PROFILES = store.NOTEBOOKS / "profiles"


class Profile(Section):
    """A whole study."""

    name: Name
    title: Title
    backbones: tuple[Backbone, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...]
    analysis_pairs: tuple[Pair, ...] = ()  # compared as they came: no embedders are made for their sake
    seeds: tuple[Seed, ...]  # none where no embedder is trained: a profile that says how backbones are made
    chapters: Annotated[tuple[Text, ...], Field(min_length=1), Once] | None = None  # only these, on the
    # backbones as they came; None: the whole study
    threads: int = Field(1, ge=1, le=512)  # per process; two processes of one thread beat one of two on two cores
    processes: int = Field(1, ge=1, le=512, exclude_if=lambda value: value == 1)  # that train one embedder together,
    # each on its share of every batch: on a card each, or on a CPU with `threads` each
    zoo: Zoo = Zoo()
    recipe: Recipe = Recipe()
    ablations: tuple[Ablation, ...] = ()
    controls: tuple[Control, ...] = ()  # beside the verdict: could the study see a difference, does it invent one?
    suite: Suite = Suite()
    analysis: Analysis = Analysis()
    verdict: Verdict = Verdict()

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        names = [b.name for b in self.backbones]
        for what, values in (("backbone", names), ("pair", [p.name for p in self.compared()]), ("seed", self.seeds),
                             ("ablation", [a.name for a in self.ablations]),
                             ("control", [c.name for c in self.controls])):
            if len(set(values)) != len(values):
                raise ValueError(f"expected every {what} once, got {list(values)}")
        uses = [(f"pair {p.name}", x) for p in self.compared() for x in (p.a, p.b)]
        uses += [(f"backbone {b.name}", b.start) for b in self.backbones if b.start]
        uses += [(f"ablation {a.name}", x) for a in self.ablations for x in a.backbones]
        uses += [(f"control {c.name}", x) for c in self.controls for x in (c.a, c.b)]
        for user, name in uses:
            if name not in names:
                raise ValueError(f"{user}: expected one of the backbones {names}, got {name!r}")
        for backbone in self.backbones:
            self._check_start(backbone)
        for pair in self.compared():
            self._check_pair(pair)
        for ablation in self.ablations:
            if self.varied(ablation.name) == self.recipe:
                raise ValueError(f"ablation {ablation.name}: expected a change of the recipe, got its own values "
                                 f"{ablation.change}: change another, or leave the ablation out")
        for control in self.controls:
            self._check_control(control)
        self._check_processes()
        return self

    def _check_processes(self) -> None:
        """ValueError for batches that the processes cannot share evenly, and weights spread over one."""
        for name in (None, *(a.name for a in self.ablations)):
            recipe, where = self.varied(name), name or "the recipe"
            if recipe.batch_size % self.processes:
                raise ValueError(f"expected a batch_size that divides by processes={self.processes}, got "
                                 f"{recipe.batch_size} in {where}: change one of them")
            if recipe.sharding == "full" and self.processes == 1:
                raise ValueError(f"expected processes of 2 or more for sharding: full in {where}, got 1: set them, or "
                                 "sharding to none")

    def _check_start(self, backbone: Backbone) -> None:
        """ValueError for a backbone whose starts lead back to one of themselves."""
        seen = [backbone.name]
        while (start := self.backbone(seen[-1]).start) is not None:
            seen.append(start)
            if start in seen[:-1]:
                raise ValueError(f"backbone {backbone.name}: expected starts that lead to a backbone without one, got "
                                 f"{' <- '.join(seen)}: correct `start`")

    def _check_pair(self, pair: Pair) -> None:
        """ValueError for a pair of one model with itself, under one name or two."""
        a, b = (self._origin(self.backbone(name)) for name in (pair.a, pair.b))
        if a == b:
            raise ValueError(f"pair {pair.name}: expected two models, got the same one twice as {pair.a} and {pair.b}: "
                             "name another (a run beside another of the same recipe differs by its seed)")
        if pair.name == "study":
            raise ValueError("expected another name for the pair 'study': pages of the whole study are called so")

    def _origin(self, backbone: Backbone) -> tuple:
        """What a backbone's weights come from: equal for two backbones that are one model."""
        if backbone.path is not None:
            return backbone.source, backbone.path.rstrip("/"), backbone.revision
        seed = self.zoo.seed if backbone.seed is None else backbone.seed
        return backbone.source, backbone.arm, backbone.start, backbone.noise, seed, backbone.geometry

    def _check_control(self, control: Control) -> None:
        """ValueError for a control that compares an embedder with itself, or needs runs that there are none of."""
        if control.a == control.b and control.ablation is None and not control.other_order:
            raise ValueError(f"control {control.name}: expected two embedders, got {control.a} twice: name another "
                             "backbone, an ablation for b, or other_order")
        if control.other_order and len(self.seeds) < 2:
            raise ValueError(f"control {control.name}: expected two seeds or more for another order of the data, got "
                             f"{list(self.seeds)}: add seeds, or leave the control out")
        if control.ablation is None:
            return
        ablation = _named("ablation", self.ablations, control.ablation)
        if control.b not in ablation.backbones or len(set(self.seeds) & set(ablation.seeds)) < min(2, len(self.seeds)):
            raise ValueError(f"control {control.name}: expected ablation {ablation.name} of {control.b} with two or "
                             f"more of the seeds {list(self.seeds)}, got it for {list(ablation.backbones)} with seeds "
                             f"{list(ablation.seeds)}: add what is missing to the ablation")

    def backbone(self, name: str) -> Backbone:
        """The backbone called `name`; ValueError names those there are."""
        return _named("backbone", self.backbones, name)

    def compared_with(self, name: str) -> str | None:
        """The backbone that a zoo backbone is measured against: its start; for another base the first one."""
        backbone = self.backbone(name)
        first = next((b.name for b in self.backbones if b.source == "zoo" and b.arm == "base"), None)
        return None if backbone.source != "zoo" or name == first else backbone.start or first

    def pair(self, name: str) -> Pair:
        """The pair called `name`; ValueError names those there are."""
        return _named("pair", self.compared(), name)

    def compared(self) -> tuple[Pair, ...]:
        """The pairs, then those of which only the backbones are compared."""
        return self.pairs + self.analysis_pairs

    def trained(self) -> list[str]:
        """Backbones that embedders are made from: all but those that occur in analysis pairs alone."""
        used = {x for p in (*self.pairs, *self.controls) for x in (p.a, p.b)}
        used |= {x for a in self.ablations for x in a.backbones}
        spared = {x for p in self.analysis_pairs for x in (p.a, p.b)} - used
        return [b.name for b in self.backbones if b.name not in spared]

    def models(self) -> list[Model]:
        """Backbones, then the recipe's embedders by seed, then those of the ablations."""
        return (
            [Model(backbone=b.name) for b in self.backbones]
            + [Model(backbone=name, seed=seed) for seed in self.seeds for name in self.trained()]
            + [Model(backbone=name, seed=seed, ablation=a.name)
               for a in self.ablations for seed in a.seeds for name in a.backbones]
        )

    def model(self, id: str) -> Model:
        """The model with this id; ValueError names those there are."""
        known = {model.id: model for model in self.models()}
        if id not in known:
            raise ValueError(f"expected a model of profile {self.name}, one of {sorted(known)}, got {id!r}")
        return known[id]

    def varied(self, ablation: str | None) -> Recipe:
        """The recipe with an ablation's changes (None: the recipe itself), validated."""
        if ablation is None:
            return self.recipe
        change = _named("ablation", self.ablations, ablation).change
        try:
            return Recipe.model_validate({**self.recipe.model_dump(), **change})
        except ValidationError as error:
            said = "; ".join(f"{place}: {text}" for place, text in _faults(error))
            raise ValueError(f"ablation {ablation}: expected a valid recipe, got {said}") from None


def _named(what: str, sections: tuple, name: str):
    for section in sections:
        if section.name == name:
            return section
    known = [section.name for section in sections]
    raise ValueError(f"expected the name of a {what} of the profile, one of {known}, got {name!r}")


class _PlainLoader(yaml.SafeLoader):
    """YAML in which every key stands once and nothing refers to anything else: what is written is what is read."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f"the alias *{event.anchor} where its content should stand",
                                       problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a list or a mapping as a key", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_profile(name: str | Path) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`, or the YAML file at a path.

    Raises ValueError with what was expected, what came and on which line: no such profile, unknown key, wrong type, a
    number without a meaning, a pair of unknown backbones.
    """
    path = Path(name)
    if not str(name).endswith((".yaml", ".yml")):
        fit = re.fullmatch(NAME_PATTERN, str(name)) and len(str(name)) <= 80
        path = PROFILES / f"{name}.yaml" if fit else Path()
    if not _is_file(path):
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        raise ValueError(f"expected a profile, one of {known} or the path of a .yaml file, got {str(name)[:200]!r}")
    try:
        loader = _PlainLoader(path.read_text(encoding="utf8"))  # a SafeLoader
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # not UTF-8; a date or number that cannot be
        raise ValueError(f"expected YAML in UTF-8 and without aliases in {path}, got {error}: correct it") from error
    try:
        profile = checked_profile(content, path.name, node)
    except RecursionError as error:
        raise ValueError(f"expected a profile in {path}, got {error}: nest it less") from error
    if profile.name != path.stem:
        raise ValueError(f"expected the name of the profile in {path.name} to be {path.stem!r}, got {profile.name!r}")
    return profile


def checked_profile(content: Any, where: str, node: yaml.Node | None = None) -> Profile:
    """The profile that `content` (keys and values) says; ValueError lists what is wrong in `where`, with the lines of
    `node`, the YAML that the content was read from."""
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_line(node, fault['loc'])}{place}{': ' if place else ''}{text}"
                 for fault, (place, text) in zip(error.errors(), _faults(error), strict=True)]
        raise ValueError(f"{where} is not a valid profile; correct these keys:\n" + "\n".join(lines)) from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the disk, or with a NUL
        return False


def _faults(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Place and message, with what came, of everything that pydantic found wrong."""
    for fault in error.errors():
        text = fault["msg"].removeprefix("Value error, ")
        came = "" if ", got " in text else f", got {fault['input']!r}"
        yield ".".join(map(str, fault["loc"])), f"{text}{came}"[:400]


def _line(node: yaml.Node | None, place: Sequence[str | int]) -> str:
    """`line 7: ` for the innermost key or entry of a place that stands in the YAML; nothing for the whole file."""
    found = None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            inner = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = node.value[part], node.value[part]
        else:
            inner = None
        if inner:
            found, node = inner[0].start_mark.line + 1, inner[1]
    return f"line {found}: " if found else ""
