"""Combinations of agents, settings and regularisation that a study trains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import agents
from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.studies import presets
from dosing.studies.settings import Grid
from dosing.training.offline import TrainingSettings
from dosing.types import Problem


def configurations(
    grid: Grid,
    preset: presets.Preset | None = None,
    regularisations: Sequence[Regularisation] = (PLAIN,),
    training: TrainingSettings | None = None,
    left_out: dict[str, str] | None = None,
) -> list[tuple[str, Any]]:
    """Agents and their configurations: every combination of the settings, for every policy family.

    Args:
        grid: agents, and the values that their settings take in turn.
        preset: applied before the settings; None is the grid's.
        regularisations: what every agent has to be able to work with.
        training: likewise; its length is what a preset's decay of the step size lasts.
        left_out: if given, takes the agents of ``["all"]`` that cannot work with the regularisation or the
            training asked for, with the reason. A setting's value that is refused is never left out.

    Raises:
        UserError: unknown agent, family or field, or a value that the agent refuses.
    """
    preset = preset or presets.find(grid.preset)
    names, settings = list(grid.agents), grid.settings
    contrast = preset.contrast
    result: list[tuple[str, Any]] = []
    used: set[str] = set()
    known: set[str] = set()
    for name in list(agents.AGENTS) if names == ["all"] else dict.fromkeys(names):
        config_class = agents.find(name).config_class()
        hints = get_type_hints(config_class)
        own = preset.settings(name, config_class, training.steps if training else None)
        values = {key: [value] for key, value in own.items()}
        if grid.families and "policy_family" in hints:
            values["policy_family"] = list(grid.families)
        elif contrast and (choice := contrast.of(config_class)):
            values[choice.setting] = choice.values(config_class)
        for key, alternatives in sorted(settings.items(), key=lambda item: "." in item[0]):
            agent, _, setting = key.rpartition(".")
            if agent in ("", name) and setting in hints:
                values[setting] = [_typed(key, value, hints[setting]) for value in alternatives]
                used.add(key)
        for combination in itertools.product(*values.values()):
            config = config_class(**dict(zip(values, combination, strict=True)))
            if (text := f"{name} {config!r}") not in known:
                known.add(text)
                result.append((name, config))
    unused = [key for key in settings if key not in used]
    if unused:
        raise UserError(f"none of the chosen agents has the setting {unused[0]!r}.")
    return _accepting(result, regularisations, training, left_out if names == ["all"] else None)


def _accepting(
    configured: Sequence[tuple[str, Any]],
    regularisations: Sequence[Regularisation],
    training: TrainingSettings | None,
    left_out: dict[str, str] | None,
) -> list[tuple[str, Any]]:
    """Those that do not refuse; the others go to ``left_out`` with the reason.

    Raises:
        UserError: all refuse, one of them where there is no ``left_out``, or one refuses its own settings.
    """
    result = []
    for name, config in configured:
        plain = _built(name, config, PLAIN)
        try:
            for options in regularisations:
                built = plain if options == PLAIN else _built(name, config, options)
                if training is not None:
                    training.check_length(built)
        except UserError as error:
            if left_out is None:
                raise
            left_out[name] = str(error)
        else:
            result.append((name, config))
    if left_out and not result:
        raise UserError(next(iter(left_out.values())))
    return result


def refusal(name: str, config: Any, options: Regularisation) -> str | None:
    """Why an agent cannot be built with these options; None where it can."""
    try:
        _built(name, config, options)
    except UserError as error:
        return str(error)
    return None


def _built(name: str, config: Any, options: Regularisation) -> Agent:
    """A stack to look at: it refuses what it would refuse once its run has begun."""
    return agents.build(name, config, Problem(1, 1, 1), (0,), regularisation=options, fresh=False)


def _typed(key: str, value: Any, hint: Any) -> Any:
    """A setting's value in the type of its field, so that 2 and 2.0 are one setting.

    Raises:
        UserError: it is of another type.
    """
    if isinstance(value, list):
        value = tuple(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        value = float(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", type(None): "null"}
    if set(kinds) <= set(words) and type(value) not in kinds:
        raise UserError(f"{key} must be {' or '.join(words[kind] for kind in kinds)}, got {value!r}.")
    return value


def regularisations(
    options: Mapping[str, Sequence[Any]], preset: presets.Preset | None = None
) -> list[Regularisation]:
    """Every combination of options of ``dosing.models.regularisation``, on top of the preset's.

    Raises:
        UserError: an option is unknown, or a value of another type or out of range.
    """
    hints = get_type_hints(Regularisation)
    if unknown := [name for name in options if name not in hints]:
        raise UserError(f"there is no regularisation {unknown[0]!r}; there are: {', '.join(hints)}.")
    base = {name: [value] for name, value in (preset.regularisation if preset else {}).items()}
    given = {name: [_typed(name, v, hints[name]) for v in values] for name, values in options.items()}
    values = base | given
    result = [
        Regularisation(**dict(zip(values, c, strict=True))) for c in itertools.product(*values.values())
    ]
    return list(dict.fromkeys(result))
