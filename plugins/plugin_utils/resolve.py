# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Render all templates in a host's variables; report each that fails with its place, and never drop it.

Each text is rendered by itself, so that an undefined variable is an error where it is used: ansible-core before 2.19 renders a
whole list at once and calls the list undefined, which `default([])` or `is defined` then hide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.template import Templar
from ansible_collections.unikernels.xen.plugins.module_utils.fleet.plain import (
    MAX_DEPTH,
    MAX_VALUES,
    UNRESOLVED,
    inside,
    one_line,
    plain,
)
from jinja2 import TemplateError, meta, nodes

try:
    from ansible.errors import AnsibleValueOmittedError
except ImportError:  # ansible-core before 2.19 renders `omit` as a text that is generated for each run

    class AnsibleValueOmittedError(Exception):  # type: ignore[no-redef]
        pass


try:
    from ansible._internal._datatag._tags import Origin
except ImportError:
    Origin = None

_OMIT = object()
_MAGIC = ("hostvars", "groups", "vars", "omit", "lookup", "query", "q")
_NAMES = (
    re.compile(r"'([^']{1,100})' is undefined"),
    re.compile(r"has no (?:attribute|element) '?([A-Za-z0-9_.-]{1,100})'?"),
)
# Errors whose text says what is missing, without any value.
_HARMLESS = re.compile(
    r"(?i)(could not (?:locate|find)|unable to (?:find|access the file)|no such file|accessing the file|"
    r"vault secrets|decryption failed|syntax error)"
)


def place_of(value: Any) -> str:
    """Return FILE:LINE where a value was written, if Ansible knows it."""
    if Origin is not None:
        origin = Origin.get_tag(value)
        path, line = (origin.path, origin.line_num) if origin else (None, None)
    else:
        path, line, _column = getattr(value, "ansible_pos", None) or (None, None, None)
    if not path:
        return ""
    return f"{path}:{line}" if line else str(path)


def _near(place: str) -> str:
    """Return `` (FILE:LINE)``, relative to the current folder."""
    relative = os.path.relpath(place) if place else ""
    return f" ({place if relative.startswith('..') else relative})" if place else ""


def reason_of(error: BaseException, ask: str) -> str:
    """Return why a text can't be rendered, without any value, which could be a secret. ``ask``: a command that shows more."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 10:
        chain.append(str(current))
        current = current.__cause__ or current.__context__ or getattr(current, "orig_exc", None)
    text = "\n".join(chain)
    names = dict.fromkeys(name for pattern in _NAMES for name in pattern.findall(text))
    if names:
        return ", ".join(f"{name!r}" for name in names) + " is not defined"
    for line in text.splitlines():
        if _HARMLESS.search(line):
            return one_line(line.strip())[:300]
    return f"can't be rendered ({type(error).__name__}); this shows more: {ask}"


class Renderer:
    """Ansible's template engine for a whole fleet: compiling a text is slower than rendering it, and hosts share most texts."""

    def __init__(self, loader: Any) -> None:
        self._templar = Templar(loader=loader, variables={})
        self._names: dict[str, frozenset[str]] = {}
        # Its place since ansible-core 2.19, which warns about the old name.
        self._environment = environment = getattr(self._templar, "_engine", self._templar).environment
        compile_text, compiled = environment.compile, {}

        def compile_once(source: Any, *arguments: Any, **named: Any) -> Any:
            if arguments or named or not isinstance(source, str):
                return compile_text(source, *arguments, **named)
            if source not in compiled:
                compiled[source] = compile_text(source)
            return compiled[source]

        environment.compile = compile_once

    def render(self, text: Any, variables: dict[str, Any]) -> Any:
        before = self._templar.available_variables
        if before is variables:
            return self._templar.template(text, fail_on_undefined=True)
        self._templar.available_variables = variables
        try:
            return self._templar.template(text, fail_on_undefined=True)
        finally:
            if isinstance(before, _Owned):  # rendered in the middle of another host's template
                self._templar.available_variables = before

    def names_in(self, text: str) -> frozenset[str]:
        """Return the variables that a template names."""
        names = self._names.get(text)
        if names is None:
            try:
                parsed = self._environment.parse(text)
                names = frozenset({*meta.find_undeclared_variables(parsed), *_looked_up(parsed)})
            except TemplateError:
                names = frozenset()
            self._names[text] = names
        return names


def _looked_up(parsed: nodes.Template) -> Iterator[str]:
    """Return the names in lookup('vars', ...), whose default hides errors in them just like the filter default."""
    for call in parsed.find_all(nodes.Call):
        words = [one.value for one in call.args if isinstance(one, nodes.Const) and isinstance(one.value, str)]
        named = isinstance(call.node, nodes.Name) and call.node.name in ("lookup", "query", "q")
        if named and words and words[0].rpartition(".")[2] == "vars":
            yield from words[1:]


class _Owned(dict):  # type: ignore[type-arg]
    """A host's variables in which C(hostvars) and C(vars) hide no errors."""


class _Strict(Mapping):  # type: ignore[type-arg]
    """A host's variables, each rendered completely or not at all. ansible-core before 2.19 returns unrendered templates."""

    __UNSAFE__ = True  # such a core uses it as it is, instead of rendering all of it on each use

    def __init__(self, renderer: Renderer, variables: dict[str, Any]) -> None:
        self._renderer, self._variables = renderer, variables

    def __getitem__(self, name: str) -> Any:
        lines: list[str] = []
        value = Resolver(self._renderer, self._variables, lines.append).rendered(self._variables[name], name)
        if lines:
            raise AnsibleUndefinedVariable("; ".join(lines).replace("is not defined", "is undefined"))
        return self._variables.get("omit") if value is _OMIT else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __contains__(self, name: object) -> bool:
        return name in self._variables


class _StrictHosts(_Strict):
    """C(hostvars) for ansible-core before 2.19."""

    def __init__(self, renderer: Renderer, hostvars: Any) -> None:
        super().__init__(renderer, hostvars)
        self._hosts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._hosts:
            raw = self._variables.raw_get(name)  # type: ignore[attr-defined]
            self._hosts[name] = _Strict(self._renderer, _Owned({**raw, "hostvars": self})) if isinstance(raw, dict) else raw
        return self._hosts[name]


class Resolver:
    """The variables of one host, rendered."""

    def __init__(
        self,
        renderer: Renderer,
        variables: dict[str, Any],
        problem: Callable[[str], None],
        held: dict[str, bool] | None = None,
    ) -> None:
        self._renderer = renderer
        strict = {"hostvars": _StrictHosts, "vars": _Strict} if Origin is None and not isinstance(variables, _Owned) else {}
        if variables.keys() & strict.keys():
            variables = _Owned(variables)
            for name in variables.keys() & strict.keys():
                variables[name] = strict[name](renderer, variables[name])
        self._variables = variables
        self._problem = problem
        self._held: dict[str, bool] = {} if held is None else held
        self._left = MAX_VALUES

    def values(self, names: list[str]) -> dict[str, Any]:
        """Return those of ``names`` that are set, in builtin types."""
        found = {}
        for name in names:
            if name in self._variables:
                value = self.rendered(self._variables[name], name)
                if value is not _OMIT:
                    found[name] = plain(value, name, self._problem)
        return found

    def rendered(self, value: Any, where: str, near: str = "", depth: int = 0) -> Any:
        """Return ``value`` with every text in it rendered. ``near``: where its container was written."""
        near = place_of(value) or near
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            return value  # `plain` counts levels and values, and refuses it
        if isinstance(value, Mapping):
            rendered = ((key, self.rendered(item, inside(where, key), near, depth + 1)) for key, item in value.items())
            return {key: item for key, item in rendered if item is not _OMIT}
        if isinstance(value, (list, tuple)):
            items = [self.rendered(item, f"{where}[{index}]", near, depth + 1) for index, item in enumerate(value)]
            return [item for item in items if item is not _OMIT]
        if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and "{" not in value):
            return value
        return self._rendered_text(value, where, near)

    def _rendered_text(self, value: Any, where: str, near: str) -> Any:
        try:
            if not isinstance(value, str) and hasattr(value, "vault"):  # an encrypted value, before ansible-core 2.19
                return str(value)
            text = self._renderer.render(value, self._variables)
        except AnsibleValueOmittedError:
            return _OMIT
        except (AnsibleError, TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            variable = re.split(r"\W", where, maxsplit=1)[0]
            ask = f"ansible {self._variables.get('inventory_hostname')} -m ansible.builtin.debug -a var={variable}"
            self._problem(f"{where}: {reason_of(error, ask)}{_near(near)}")
            return UNRESOLVED
        if isinstance(text, str) and text == self._variables.get("omit"):
            return _OMIT
        if Origin is None and isinstance(value, str) and not self._references_hold(value, where, near):
            return UNRESOLVED
        return text

    def _references_hold(self, text: str, where: str, near: str) -> bool:
        """True if each list and mapping that a template names can be rendered completely; else report the hidden errors."""
        return all([self._reference_holds(name, f"{where} -> {name}", near) for name in sorted(self._renderer.names_in(text))])

    def _reference_holds(self, name: str, where: str, near: str) -> bool:
        if name in self._held:
            return self._held[name]
        self._held[name] = True  # ends the recursion if variables name each other
        value = self._variables.get(name)
        if name.startswith("ansible_") or name in _MAGIC:
            return True
        if isinstance(value, (Mapping, list)):
            failed: list[str] = []
            Resolver(self._renderer, self._variables, failed.append, self._held).rendered(value, where, near)
            for line in failed:
                self._problem(line)
            self._held[name] = not failed
        elif isinstance(value, str) and "{" in value:
            self._held[name] = self._references_hold(value, where, place_of(value) or near)
        return self._held[name]
