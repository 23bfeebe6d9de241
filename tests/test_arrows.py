"""Which room may import which: the arrows point one way."""

import ast
from pathlib import Path

import alignlab

HERE = Path(alignlab.__file__).parent
ROOMS = {  # such as "dpo", "lab.live" and, for a package's own file, "losses"
    ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__"): path for path in HERE.rglob("*.py")
}
TOP = {room for room in ROOMS if room.split(".")[0] not in ("lab", "tools", "examples")}
EQUATIONS = {room for room in ROOMS if room.split(".")[0] == "losses"}
DRAWING = {"ipywidgets", "IPython", "matplotlib", "graphviz"}
STAGES = {"sft", "reward", "ppo", "dpo", "rloo", "online", "kto"}


def imports(room: str) -> tuple[set[str], set[str]]:
    """Our rooms and others' packages that a room imports, at its head or inside functions."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(ROOMS[room].read_text())):
        if isinstance(node, ast.Import):
            others |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            package, _, rest = node.module.partition(".")
            if package == "alignlab":
                inner = {f"{rest}.{name.name}".lstrip(".") for name in node.names}  # rooms, or names of what stands in `rest`
                ours |= {other if other in ROOMS or rest not in ROOMS else rest for other in inner}
            else:
                others.add(package)
    return ours, others


def test_every_import_of_ours_is_a_room():
    for room in ROOMS:
        assert imports(room)[0] <= set(ROOMS), room


def test_the_equations_import_torch_alone():
    assert EQUATIONS > {"losses", "losses.tokens"}
    for room in EQUATIONS:
        ours, others = imports(room)
        assert ours <= EQUATIONS - {"losses"} and others <= {"torch"}, room
    ours, others = imports("exact")
    assert ours == set() and others <= {"torch", "math", "collections", "typing"}


def test_foundations_import_no_stage():
    for room in ("data", "base", "heads", "models", "rollout", "optim", "stage"):
        assert not imports(room)[0] & (STAGES | {"stages", "evaluate", "runs", "pipeline", "cli", "recipes"}), room


def test_stages_import_only_what_stands_before_them():
    for stage in STAGES:
        assert imports(stage)[0] <= {"losses", "exact", "data", "heads", "models", "rollout", "optim", "errors", "stage", "talks"}, stage


def test_the_command_line_alone_imports_what_faces_the_notebook_or_measures_and_builds():
    for room in TOP - {"cli"}:
        assert not {other for other in imports(room)[0] if other.split(".")[0] in ("lab", "tools", "examples")}, room


def test_only_the_rooms_of_the_notebook_import_what_draws():
    for room in ROOMS:
        if room.split(".")[0] != "lab":
            assert not imports(room)[1] & DRAWING, room


def test_no_room_imports_in_a_circle():
    graph = {room: imports(room)[0] & set(ROOMS) for room in ROOMS}
    done: set[str] = set()

    def walk(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, " -> ".join([*above, room])
        if room not in done:
            for other in graph[room]:
                walk(other, (*above, room))
            done.add(room)

    for room in graph:
        walk(room, ())
