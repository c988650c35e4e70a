"""The command line: overrides checked and completed before Hydra sees them, errors told in one sentence.

Hydra's grammar rejects an unquoted `{` or `=` inside a value, which a brace pattern of shards and many paths have; such
values are quoted here. Unknown keys and choices are answered with the nearest valid name.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, ConfigTypeError, OmegaConfBaseException, ValidationError

from balance.common.allowed import check_values
from balance.errors import UserError
from balance.stream.stores import Storage, use_storage
from conf.app.command import check_given_once, fail, guarded, tell_interrupts
from conf.app.named_sets import check_named_sets
from conf.app.run import not_begun
from conf.app.runtime import hide_gpus
from conf.app.saved_config import read_stored
from conf.app.schema import Config

CONF = Path(__file__).resolve().parents[1]
# Untyped: types and values are checked by `to_config`, in this project's words.
ConfigStore.instance().store("schema", OmegaConf.to_container(OmegaConf.structured(Config)))


def quote_override(override: str) -> str:
    """Quote the value of an override that Hydra's grammar would reject, and leave all others as they are."""
    key, equals, value = override.partition("=")
    if not equals or key.startswith("-") or _parses(override):
        return override
    if value.startswith("[") and value.endswith("]"):
        value = "[" + ",".join(_quote(part.strip()) for part in _split(value[1:-1])) + "]"
    else:
        value = _quote(value)
    return f"{key}={value}"


def replace_mappings(overrides: list[str]) -> list[str]:
    """Make `key={a: 1}` replace the mapping: Hydra would merge it into the old one, and refuse new keys."""
    found = []
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("{") and key[:1] not in "+~" and key not in groups():
            found += [f"{key}=null", f"++{override}"]  # a removal would fail where the value is null already
        else:
            found.append(override)
    return found


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _quote(value: str) -> str:
    if _parses(f"key={value}"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _split(text: str) -> Iterator[str]:
    """Split at commas that lie outside braces."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def groups() -> dict[str, list[str]]:
    """The configuration groups, those of the defaults list, and their choices; other folders hold data files."""
    defaults = cast(DictConfig, OmegaConf.load(CONF / "train.yaml")).defaults
    names = [str(key) for entry in defaults if isinstance(entry, DictConfig) for key in entry]
    return {n: sorted(p.stem for p in (CONF / n).glob("*.yaml")) for n in sorted(names) if (CONF / n).is_dir()}


def all_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration."""
    if isinstance(config, DictConfig):
        for key in config:
            path = f"{prefix}{key!s}"
            yield path
            yield from all_keys(config._get_node(key), f"{path}.")


def _nearest(name: str, names: Iterable[str]) -> str:
    # The names of choices say which file was chosen; none sets them.
    names = [full for full in dict.fromkeys(names) if full in ("name", "model.name") or not full.endswith(".name")]
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if not near:  # the right key in the wrong group is a common slip
        last = name.rsplit(".", 1)[-1]
        near = [full for full in names if full.rsplit(".", 1)[-1] == last][:3]
    if not near:
        near = get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "python train.py --help lists all."


def compose_raw(overrides: list[str], config_name: str = "train") -> DictConfig:
    """Compose a configuration; no type is checked yet.

    Raises:
        UserError: an unknown key or choice, with the nearest valid name, an override that can't be read, or an
            evaluation set that is named and is not there.
    """
    overrides = [quote_override(o) for o in overrides]
    known = groups()
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"{override!r} is no override; write key=value. {_nearest(override, known)}")
    overrides = leave_out(overrides)
    check_choices(overrides, known)
    choices = [o for o in overrides if o.lstrip("+").partition("=")[0] in known]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        defaults = hydra.compose(config_name, choices)
        for override in overrides:
            if override.startswith(("+", "~", "hydra")):
                continue
            key = override.partition("=")[0]
            if key not in known and not _exists(defaults, key):
                raise UserError(f"Unknown key {key}; {_nearest(key, [*all_keys(defaults), *known])}")
        try:
            composed = hydra.compose(config_name, replace_mappings(overrides))
        except HydraException as error:
            raise UserError(f"The overrides can't be applied: {' '.join(str(error).split())[:400]}") from error
    check_named_sets(composed, overrides)
    return composed


def leave_out(overrides: list[str]) -> list[str]:
    """The overrides without `experiment=null`, which asks for what is so anyway and which Hydra can't read."""
    return [override for override in overrides if override.lstrip("+") not in ("experiment=null", "experiment=")]


def check_choices(overrides: list[str], known: dict[str, list[str]], sweep: bool = False) -> None:
    """Check that every group is given one of its choices.

    Args:
        overrides: of the command.
        known: `groups()`.
        sweep: whether values may be several, with commas.

    Raises:
        UserError: there is no such choice; null and a removal are none, but for the group `experiment`.
    """
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in known or (override.startswith("~") and key == "experiment"):
            continue
        if sweep and "(" in value:  # one of Hydra's functions, such as choice(...)
            continue
        for choice in value.split(",") if sweep else [value]:
            if override.startswith("~") or choice in ("null", ""):
                raise UserError(
                    f"{override}: a run needs every group, and {key} has no empty choice; it has "
                    f"{', '.join(known[key])}."
                )
            if choice not in known[key]:
                raise UserError(f"{key}={choice}: the group {key} has no such choice; {_nearest(choice, known[key])}")


def _exists(config: DictConfig, key: str) -> bool:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118 - `in` is false for values not given yet
            return isinstance(node, DictConfig) and False
        node = node._get_node(part)
    return True


def to_config(raw: DictConfig) -> Config:
    """Check a composed configuration against the schema and resolve it; stores are reached as it says from here on.

    Raises:
        UserError: a key that does not exist, a value of the wrong type or one that is not allowed, or one that must be
            given and is not.
    """
    _read_mappings(raw)
    try:
        content = {key: raw._get_node(key) for key in raw if key not in ("experiment", "hydra")}
        typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(content))
        missing = OmegaConf.missing_keys(typed)
        if missing:
            key = sorted(missing)[0]
            raise UserError(f"{key} must be given: add {key}=... to the command.")
        OmegaConf.resolve(typed)
    except ConfigKeyError as error:
        schema = list(all_keys(OmegaConf.structured(Config)))
        key = str(error.full_key)
        raise UserError(f"Unknown key {key}; {_nearest(key, schema)}") from error
    except (ValidationError, ConfigTypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key}: {reason}.") from error
    except OmegaConfBaseException as error:
        raise UserError(f"The configuration can't be resolved: {' '.join(str(error).split())[:400]}") from error
    config = cast(Config, OmegaConf.to_object(typed))
    check_values(config)
    use_storage(Storage(config.data.storage or {}, config.data.retries, config.data.timeout))
    return config


def _read_mappings(config: DictConfig) -> None:
    """Turn `{age_group=old: 0.2}` into a mapping: Hydra's grammar has no such keys, so that it came as a text."""
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                _read_mappings(node)
        elif isinstance(text := getattr(node, "_value", lambda: None)(), str) and re.fullmatch(r"\{.*:.*\}", text):
            with suppress(yaml.YAMLError):
                mapping = yaml.safe_load(text)
                if isinstance(mapping, dict):
                    OmegaConf.update(config, str(key), mapping, merge=False)


def compose(overrides: list[str], config_name: str = "train") -> Config:
    """Compose and check a configuration from overrides, as the command line does.

    Raises:
        UserError: see `compose_raw` and `to_config`.
    """
    return to_config(compose_raw(overrides, config_name))


def stored_config(overrides: list[str]) -> Config | None:
    """The configuration of the run that `name=... resume=true` goes on with; None for any other command.

    Keys that are given besides replace the run's own. A command that chooses from a group (`data=wds`), adds
    or removes a key is a whole one.

    Raises:
        UserError: the run was not begun, so that its configuration is not known; it can't be read; or an unknown key.
    """
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    whole = any(word[:1] in "+~" or word.partition("=")[0] in groups() for word in overrides)
    if whole or given.get("resume") != "true" or "name" not in given:
        return None
    folder = Path(given.get("runs", "runs")) / given["name"]
    saved = folder / "config.yaml"
    if not_begun(folder) and not saved.is_file():  # defaults in its place would train something else, unsaid
        raise UserError(
            f"The run in {folder} was stopped before its configuration was written; give the whole command that it "
            "was started with."
        )
    if not saved.is_file():
        return None  # the run itself says that there is nothing to resume
    stored = read_stored(folder)
    from eval.runner import check_kinds  # torch takes seconds, which other commands do without

    # The folder may be another's: only the command lets commands run, and code be imported.
    OmegaConf.update(stored, "data.allow_pipe", False)
    check_kinds(OmegaConf.select(stored, "eval.evaluators"), str(saved), named_kinds(overrides))
    parsed = OverridesParser.create().parse_overrides([quote_override(override) for override in overrides])
    for override in parsed:
        if not _exists(stored, override.key_or_group):
            names = all_keys(stored)
            raise UserError(f"Unknown key {override.key_or_group}; {_nearest(override.key_or_group, names)}")
        OmegaConf.update(stored, override.key_or_group, override.value(), merge=False)
    stored.update({"name": given["name"], "resume": True, "runs": given.get("runs", "runs")})
    check_named_sets(stored, overrides)
    return to_config(stored)


def named_kinds(overrides: Iterable[str]) -> set[str]:
    """The classes of one's own that a command line names as kinds of evaluators."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {value.strip("'\"") for key, _, value in pairs if re.fullmatch(r"eval\.evaluators\.[^=]+\.kind", key)}


def check_flags(flags: list[str]) -> None:
    """Check that what begins with dashes is a flag of Hydra's: keys of the configuration have none.

    Raises:
        UserError: it is a key with dashes, or an unknown flag.
    """
    keys = [*all_keys(OmegaConf.structured(Config)), *groups()]
    for flag in flags:
        name, equals, value = flag.lstrip("-").partition("=")
        if not flag.startswith("--") or any(known.startswith(f"--{name}") for known in FLAGS):
            continue
        key = name.replace("-", "_")
        if key in keys:
            written = f"{key}={value if equals else 'true' if isinstance(_default(key), bool) else '...'}"
            raise UserError(f"{flag}: keys are written without dashes: {written}.")
        raise UserError(f"{flag} is no flag, and keys are written without dashes; {_nearest(key, keys)}")


def _default(key: str) -> Any:
    return OmegaConf.select(OmegaConf.structured(Config), key)


def sweep_job(hydra_config: Any) -> str:
    """What sets a job of a sweep apart: the keys that vary, in their last part, with their values."""
    given = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    varied = {str(key) for key in hydra_config.sweeper.get("params") or {}}
    asked = [quote_override(arg) for arg, before in pairwise_arguments(sys.argv) if is_override(arg, before)]
    varied |= {o.key_or_group for o in OverridesParser.create().parse_overrides(asked) if o.is_sweep_override()}
    parts = [f"{o.key_or_group.rsplit('.', 1)[-1]}-{o.value()}" for o in given if o.key_or_group in varied]
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(parts)) or f"job-{hydra_config.job.num}"


def name_job(config: Config, job: str) -> Config:
    """Give a job of a sweep a name of its own; `resume=true` starts the jobs that were not started yet."""
    base = config.name or config.track.group or "sweep"
    config.name = f"{base}-{job}"
    config.track.group = config.track.group or base
    if config.resume and not (Path(config.runs) / config.name / "config.yaml").is_file():
        config.resume = False
    return config


FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info"),
)
FLAGS_WITH_VALUE = (
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cp",
    "--config-path",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
)


def pairwise_arguments(argv: list[str]) -> list[tuple[str, str]]:
    """Each argument of a command with the one before it."""
    return list(zip(argv[1:], argv[:-1], strict=True))


def is_override(argument: str, before: str) -> bool:
    """Whether an argument is an override and no flag of Hydra's, nor such a flag's value."""
    return not argument.startswith("-") and before not in FLAGS_WITH_VALUE


def _run_alone(task: Callable[[Config], int | None], config: Config) -> int | None:
    """Run the only task of this process; the jobs of a sweep share one, and may differ in their device."""
    if config.device == "cpu":
        hide_gpus()
    return task(config)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a command, with their values, and its overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    for argument, before in pairwise_arguments(list(argv)):
        (overrides if is_override(argument, before) else flags).append(argument)
    return flags, overrides


def answer_early(config_name: str = "train") -> None:
    """Answer a command that asks for help or is mistaken, and exit; others go on to `launch`.

    A program calls it before it imports what takes seconds.
    """
    tell_interrupts()
    if {"-h", "--help", "--hydra-help"} & set(sys.argv[1:]):
        launch(lambda config: None, config_name)
        sys.exit(0)
    check_command(sys.argv, config_name)


def check_command(argv: Sequence[str], config_name: str) -> Config | None:
    """Check the command line, and exit where it is wrong.

    Returns:
        The configuration of the run that the command goes on with, if it is such a command.
    """
    flags, overrides = split_arguments(argv)
    if {"-h", "--help", "--hydra-help"} & set(argv[1:]):
        return None
    try:
        check_flags(flags)
        check_given_once(overrides)
        if not flags and (stored := stored_config(overrides)) is not None:
            return stored
        if {"-m", "--multirun"} & set(argv[1:]):  # each job is composed when its turn comes
            check_choices(leave_out(overrides), groups(), True)
        else:
            compose_raw(overrides, config_name)
    except Exception as error:
        sys.exit(fail(error))
    return None


def launch(task: Callable[[Config], int | None], config_name: str = "train") -> None:
    """Run a task with the configuration that the command line asks for, then exit with its status.

    Overrides are checked first. Hydra's own flags (`--help`, `--cfg job`, `--multirun`, ...) work as usual.
    """
    stored = check_command(sys.argv, config_name)
    if stored is not None:
        sys.exit(guarded(lambda: _run_alone(task, stored)) or 0)
    flags, overrides = split_arguments(sys.argv)
    sys.argv[1:] = flags + replace_mappings([quote_override(override) for override in leave_out(overrides)])

    failed: list[str] = []

    def run(raw: DictConfig) -> None:
        job = sweep_job(HydraConfig.get()) if HydraConfig.get().mode == RunMode.MULTIRUN else None
        named = Config()
        try:
            if job:  # a single run's were checked with its overrides
                check_named_sets(raw, HydraConfig.get().overrides.task)
            config = to_config(raw)
            named = name_job(config, job) if job else config
            status = task(named) if job else _run_alone(task, config)
        except Exception as error:
            status = fail(error)
            if job:  # the others may do
                failed.append(named.name or job)
                return
        if status:
            sys.exit(status)

    status = guarded(hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(run))
    if status:
        sys.exit(status)
    if failed:
        sys.exit(fail(UserError(f"Of the runs of the sweep these could not be made: {', '.join(failed)}.")))
