"""Translates the shading functions of the software renderer into GLSL, so that both backends share one source.

Understood is what those functions are written in: numbers and truth values in local names, the arrays of `ARRAYS`,
arithmetic, comparisons, `if`, `while`, `for _ in range(n)`, and calls of each other. Arrays are not passed on: a shader
reads `light[3]` through a function `light_at(3)` that it defines. Constants are taken from the functions' modules.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

INT: Final = "int"
FLOAT: Final = "float"
BOOL: Final = "bool"

ARRAYS: Final[Mapping[str, str]] = {
    "light": FLOAT, "noise": FLOAT, "ground": INT, "beams": INT, "origin": FLOAT,
    "texels": INT, "offsets": INT, "tile_m": FLOAT, "of_material": INT, "table": FLOAT,
}  # fmt: skip
"""Arrays a shader gives access to, and what they hold."""

SHARED: Final = frozenset({*ARRAYS, "around", "textures", "cell_m"})
"""Names that are no parameters in GLSL."""

INTEGER_PARAMETERS: Final = frozenset({"i", "j", "k", "material", "texture", "base", "side", "windows", "seed"})
TRUTH_PARAMETERS: Final = frozenset({"shadowed", "smooth"})

_BINARY: Final = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
    ast.BitAnd: "&", ast.BitXor: "^", ast.RShift: ">>", ast.LShift: "<<",
}  # fmt: skip
_COMPARE: Final = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_ZERO: Final = {INT: "0", FLOAT: "0.0", BOOL: "false"}


class TranslationError(Exception):
    """A function uses what cannot be translated; the text names the function and the line."""


def translate(functions: Sequence[Callable[..., Any]]) -> str:
    """GLSL of the functions, which call only those before them, with the constants they use.

    Functions may be compiled by Numba. One that returns several values has them as `out` parameters.

    Raises: TranslationError.
    """
    constants: dict[str, str] = {}
    returned: dict[str, list[str]] = {}
    texts = []
    for function in functions:
        plain = getattr(function, "py_func", function)
        translator = _Translator(plain, constants, returned)
        texts.append(translator.text())
        returned[plain.__name__] = translator.returns
    return "\n".join([*constants.values(), *texts])


def literal(value: Any) -> tuple[str, str]:
    """(GLSL text, type) of a number or a truth value."""
    if isinstance(value, bool):
        return str(value).lower(), BOOL
    if isinstance(value, int):
        return str(value), INT
    text = repr(float(value))
    return text if any(mark in text for mark in ".en") else text + ".0", FLOAT


def array_constant(name: str, values: Sequence[Any]) -> str:
    """Declaration of the numbers as the constant array `name_values`."""
    kind = INT if all(literal(v)[1] == INT for v in values) else FLOAT
    texts = ", ".join(_cast(literal(v), kind) for v in values)
    size = len(values)
    return f"const {kind} {name}_values[{size}] = {kind}[{size}]({texts});"


def _cast(typed: tuple[str, str], kind: str) -> str:
    text, have = typed
    return text if have == kind else f"{kind}({text})"


class _Translator:
    """One function."""

    def __init__(
        self, function: Callable[..., Any], constants: dict[str, str], returned: Mapping[str, list[str]]
    ) -> None:
        self._function = function
        self._constants = constants
        self._returned = returned
        self.returns: list[str] = []
        """Types of what the function returns"""
        self._locals: dict[str, str] = {}
        self._temporaries = 0
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        (definition,) = tree.body
        assert isinstance(definition, ast.FunctionDef)
        self._definition = definition

    def text(self) -> str:
        name = self._definition.name
        parameters = {}
        for argument in self._definition.args.args:
            if argument.arg not in SHARED:
                known = INT if argument.arg in INTEGER_PARAMETERS else FLOAT
                parameters[argument.arg] = BOOL if argument.arg in TRUTH_PARAMETERS else known
        self._locals = dict(parameters)
        body = self._block(self._definition.body)
        declared = [
            f"{kind} {_local(local)} = {_ZERO[kind]};"
            for local, kind in self._locals.items()
            if local not in parameters
        ]
        given = [f"{kind} {_local(local)}" for local, kind in parameters.items()]
        if len(self.returns) == 1:
            result = self.returns[0]
        else:
            result = "void"
            given += [f"out {kind} result{place}" for place, kind in enumerate(self.returns)]
        lines = [f"{result} {name}({', '.join(given)}) {{", *_indented(declared), *body, "}"]
        return "\n".join(lines)

    # --- statements -----------------------------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt]) -> list[str]:
        return _indented([line for statement in statements for line in self._statement(statement)])

    def _statement(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return []
        if isinstance(node, ast.Assign):
            return self._assign(node)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            value = self._expression(ast.BinOp(node.target, node.op, node.value))
            return [self._store(node.target.id, value)]
        if isinstance(node, ast.If):
            lines = [f"if ({self._truth(node.test)}) {{", *self._block(node.body), "}"]
            return lines + (["else {", *self._block(node.orelse), "}"] if node.orelse else [])
        if isinstance(node, ast.While):
            return [f"while ({self._truth(node.test)}) {{", *self._block(node.body), "}"]
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and isinstance(node.target, ast.Name):
            (end,) = node.iter.args
            counter = f"counter{self._temporaries}"
            self._temporaries += 1
            head = f"for (int {counter} = 0; {counter} < {self._expression(end)[0]}; ++{counter}) {{"
            return [head, *self._block(node.body), "}"]
        if isinstance(node, ast.Return) and node.value is not None:
            return self._return(node.value)
        raise self._refusal(node)

    def _assign(self, node: ast.Assign) -> list[str]:
        if isinstance(node.value, ast.Name) and node.value.id in SHARED:
            return []  # an array by another name: the names stay the same
        target = node.targets[0]
        if not isinstance(target, ast.Tuple):
            value = self._expression(node.value)
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            return [self._store(name, value) for name in names]
        names = [t.id for t in target.elts if isinstance(t, ast.Name)]
        if isinstance(node.value, ast.Tuple):
            kinds, lines = [], []
            first = self._temporaries
            self._temporaries += len(names)
            for place, part in enumerate(node.value.elts):
                text, kind = self._expression(part)
                kinds.append(kind)
                lines.append(f"{kind} temporary{first + place} = {text};")
            stored = [self._store(name, (f"temporary{first + n}", kinds[n])) for n, name in enumerate(names)]
            return ["{", *_indented(lines + stored), "}"]
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            called = node.value.func.id
            for name, kind in zip(names, self._returned[called], strict=True):
                self._locals.setdefault(name, kind)
            arguments = self._arguments(node.value) + [_local(name) for name in names]
            return [f"{called}({', '.join(arguments)});"]
        raise self._refusal(node)

    def _store(self, name: str, value: tuple[str, str]) -> str:
        kind = self._locals.setdefault(name, value[1])
        return f"{_local(name)} = {_cast(value, kind)};"

    def _return(self, value: ast.expr) -> list[str]:
        if isinstance(value, ast.Call) and self._returned_by(value) > 1:
            raise self._refusal(value)
        parts = [self._expression(part) for part in (value.elts if isinstance(value, ast.Tuple) else [value])]
        if not self.returns:
            self.returns = [kind for _, kind in parts]
        if len(parts) == 1:
            return [f"return {_cast(parts[0], self.returns[0])};"]
        stored = [f"result{n} = {_cast(part, self.returns[n])};" for n, part in enumerate(parts)]
        return [*stored, "return;"]

    def _returned_by(self, call: ast.Call) -> int:
        return len(self._returned.get(call.func.id, ())) if isinstance(call.func, ast.Name) else 0

    # --- expressions ----------------------------------------------------------------------------------------------

    def _expression(self, node: ast.expr) -> tuple[str, str]:
        """(GLSL text, type)."""
        if isinstance(node, ast.Constant):
            return literal(node.value)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Subscript):
            return self._element(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        if isinstance(node, ast.UnaryOp):
            text, kind = self._expression(node.operand)
            return (f"(!{self._truth(node.operand)})", BOOL) if isinstance(node.op, ast.Not) else (f"(-{text})", kind)
        if isinstance(node, ast.BoolOp):
            sign = " && " if isinstance(node.op, ast.And) else " || "
            return f"({sign.join(self._truth(value) for value in node.values)})", BOOL
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.IfExp):
            (a, kind), (b, _) = self._alike(self._expression(node.body), self._expression(node.orelse))
            return f"({self._truth(node.test)} ? {a} : {b})", kind
        raise self._refusal(node)

    def _name(self, node: ast.Name) -> tuple[str, str]:
        if node.id in self._locals:
            return _local(node.id), self._locals[node.id]
        if node.id == "cell_m":
            return "cell_m", FLOAT
        value = self._global(node)
        text, kind = literal(value)
        self._constants[node.id] = f"const {kind} {node.id} = {text};"
        return node.id, kind

    def _element(self, node: ast.Subscript) -> tuple[str, str]:
        places = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        at = ", ".join(_cast(self._expression(place), INT) for place in places)
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            assert isinstance(node.value.value, ast.Name)
            return f"{node.value.value.id}_shape({at})", INT
        if not isinstance(node.value, ast.Name):
            raise self._refusal(node)
        name = node.value.id
        if name in ARRAYS:
            return f"{name}_at({at})", ARRAYS[name]
        values = self._global(node.value)
        self._constants[name] = array_constant(name, values)
        return f"{name}_values[{at}]", INT if isinstance(values[0], int) else FLOAT

    def _global(self, node: ast.Name) -> Any:
        try:
            return self._function.__globals__[node.id]
        except KeyError:
            raise self._refusal(node) from None

    def _call(self, node: ast.Call) -> tuple[str, str]:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("min", "max"):
            values = [self._expression(value) for value in node.args]
            text, kind = values[0]
            for value in values[1:]:
                (a, kind), (b, _) = self._alike((text, kind), value)
                text = f"{called}({a}, {b})"
            return text, kind
        if called == "abs":
            text, kind = self._expression(node.args[0])
            return f"abs({text})", kind
        if called == "floor":
            return f"int(floor({self._expression(node.args[0])[0]}))", INT
        if called in ("int", "float"):
            return f"{called}({self._expression(node.args[0])[0]})", called
        if called in ("sqrt", "exp"):
            return f"{called}({_cast(self._expression(node.args[0]), FLOAT)})", FLOAT
        if len(self._returned.get(called, ())) != 1:
            raise self._refusal(node)
        return f"{called}({', '.join(self._arguments(node))})", self._returned[called][0]

    def _arguments(self, node: ast.Call) -> list[str]:
        assert isinstance(node.func, ast.Name)
        called = self._function.__globals__[node.func.id]
        names = inspect.signature(getattr(called, "py_func", called)).parameters
        texts = []
        for name, value in zip(names, node.args, strict=True):
            if name not in SHARED:
                kind = INT if name in INTEGER_PARAMETERS else BOOL if name in TRUTH_PARAMETERS else FLOAT
                texts.append(_cast(self._expression(value), kind))
        return texts

    def _binary(self, node: ast.BinOp) -> tuple[str, str]:
        sign = _BINARY.get(type(node.op))
        if sign is None:
            raise self._refusal(node)
        left, right = self._expression(node.left), self._expression(node.right)
        if sign == "/":
            return f"({_cast(left, FLOAT)} / {_cast(right, FLOAT)})", FLOAT
        (a, kind), (b, _) = self._alike(left, right)
        return f"({a} {sign} {b})", kind

    def _comparison(self, node: ast.Compare) -> tuple[str, str]:
        (comparator,), (op,) = node.comparators, node.ops
        left = self._expression(node.left)
        if isinstance(op, ast.In) and isinstance(comparator, ast.Tuple):
            tests = [f"{left[0]} == {_cast(self._expression(value), left[1])}" for value in comparator.elts]
            return f"({' || '.join(tests)})", BOOL
        sign = _COMPARE.get(type(op))
        if sign is None:
            raise self._refusal(node)
        (a, _), (b, _) = self._alike(left, self._expression(comparator))
        return f"({a} {sign} {b})", BOOL

    def _truth(self, node: ast.expr) -> str:
        text, kind = self._expression(node)
        return text if kind == BOOL else f"({text} != {_ZERO[kind]})"

    @staticmethod
    def _alike(a: tuple[str, str], b: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
        """Both with one type: real numbers where one of them is real."""
        kind = a[1] if a[1] == b[1] else FLOAT
        return (_cast(a, kind), kind), (_cast(b, kind), kind)

    def _refusal(self, node: ast.AST) -> TranslationError:
        line = getattr(node, "lineno", 0)
        return TranslationError(f"{self._function.__name__}, line {line}: {ast.unparse(node)} has no GLSL equivalent")


def _local(name: str) -> str:
    """A local name that is no keyword of GLSL."""
    return f"{name}_"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
