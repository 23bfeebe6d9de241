"""Lines of code that a reader opens: `python -m alignlab.tools.lines`. Docstrings, comments and blank lines do not count."""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
READ = {
    "DPO": ("dpo", "data", "losses/tokens", "losses/preferences", "models", "optim"),
    "PPO": ("ppo", "data", "losses/tokens", "losses/policy", "models", "heads", "optim", "rollout"),
}
LONGEST_FUNCTION, LONGEST_FILE = 40, 400
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold code."""
    text = path.read_text(encoding="utf-8")
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            held -= _lines(node.body[0])
    return held


def _lines(node: ast.stmt) -> set[int]:
    """Numbers of the lines of a statement."""
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def functions(path: Path) -> dict[str, int]:
    """Code lines of each function in a file."""
    held = code_lines(path)
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    nodes = [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: len(held & _lines(node)) for node in nodes}


def main() -> None:
    for method, rooms in READ.items():
        counts = {room: len(code_lines(ROOT / f"{room}.py")) for room in rooms}
        print(f"{method}: {sum(counts.values())} lines of code = {' + '.join(f'{count} ({room})' for room, count in counts.items())}")
    for path in sorted(ROOT.rglob("*.py")):
        name, total = path.relative_to(ROOT).as_posix(), len(path.read_text(encoding="utf-8").splitlines())
        if total > LONGEST_FILE:
            print(f"{name}: {total} lines")
        for function, count in functions(path).items():
            if count > LONGEST_FUNCTION:
                print(f"{name}, {function}: {count} lines of code")


if __name__ == "__main__":
    main()
