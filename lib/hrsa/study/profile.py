"""The profile: one YAML file that says what to study. Its sections and their defaults are in `hrsa.study.sections`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    Pair,
    Recipe,
    Section,
    Suite,
    Verdict,
    Zoo,
)

__all__ = ["Ablation", "Analysis", "Backbone", "Control", "Lora", "Mining", "Model", "Pair", "Profile", "Recipe",
           "Suite", "Verdict", "Zoo", "load_profile"]
PROFILES = store.NOTEBOOKS / "profiles"


class Profile(Section):
    """A whole study."""

    name: str = Field(pattern=NAME_PATTERN)
    title: str
    backbones: tuple[Backbone, ...]
    pairs: tuple[Pair, ...]
    analysis_pairs: tuple[Pair, ...] = ()  # compared as they came: no embedders are made for their sake
    seeds: tuple[int, ...]
    chapters: tuple[str, ...] | None = None  # only these chapters, on the backbones as they came; None: the whole study
    threads: int = 1  # per process; two processes of one thread beat one of two on two cores
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
        for ablation in self.ablations:
            self.varied(ablation.name)
        for control in self.controls:
            self._check_control(control)
        return self

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
        if control.b not in ablation.backbones or not set(self.seeds) <= set(ablation.seeds):
            raise ValueError(f"control {control.name}: expected ablation {ablation.name} of {control.b} with seeds "
                             f"{list(self.seeds)}, got it for {list(ablation.backbones)} with seeds "
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
        return Recipe.model_validate({**self.recipe.model_dump(), **change})


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

    Raises ValueError with what was expected and what came: no such profile, unknown key, wrong type, a pair of
    unknown backbones.
    """
    path = PROFILES / f"{name}.yaml"
    if str(name).endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.is_file():
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        raise ValueError(f"expected a profile, one of {known} or the path of a .yaml file, got {str(name)!r}")
    try:
        profile = Profile.model_validate(yaml.load(path.read_text(encoding="utf8"), _PlainLoader))  # a SafeLoader
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"expected YAML in UTF-8 and without aliases in {path}, got {error}: correct it") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}"[:300] for e in error.errors()]
        raise ValueError(f"{path.name} is not a valid profile; correct these keys:\n" + "\n".join(lines)) from None
    if profile.name != path.stem:
        raise ValueError(f"expected the name of the profile in {path.name} to be {path.stem!r}, got {profile.name!r}")
    return profile
