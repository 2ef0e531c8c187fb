# Copyright (c) the unikernels.xen authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EDGE. Render all templates in a host's variables; report each that fails with its place, and never drop it.

Each text is rendered by itself, so that an undefined variable is an error where it is used: ansible-core before 2.19 renders a
whole list at once and calls the list undefined, which `default([])` or `is defined` then hide. Every ansible-core lets these hide
a variable that is set to a template which can't be rendered; so what they test is rendered by itself too.
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
_LOOKUPS = ("lookup", "query", "q")
_MAGIC = ("hostvars", "groups", "vars", "omit", *_LOOKUPS)
_NAMES = (
    re.compile(r"'([^']{1,100})' is undefined"),
    re.compile(r"has no (?:attribute|element) '?([A-Za-z0-9_.-]{1,100})'?"),
    re.compile(r"(?m)^\"?(hostvars\['[A-Za-z0-9_.-]{1,100}'\])(?:\" is undefined)?$"),
    re.compile(r"No variable (?:named|found with this name:) '?([A-Za-z0-9_]{1,100})\b"),
    re.compile(r"Mandatory variable '([A-Za-z0-9_]{1,100})' +not defined"),
    re.compile(r"(?:[Ee]nvironment variable|undefined variable:) '?([A-Za-z0-9_]{1,100})\b"),
)
# Errors whose text states what is missing, without any value.
_HARMLESS = re.compile(
    r"(?i)(could not (?:locate|find|load)|unable to (?:find|access the file)|no such file|accessing the file|"
    r"vault secrets|undecryptable|decryption failed|syntax error|(?:division|modulo) by zero|"
    r"lookup plugin \S+ (?:was )?not found)"
)
# What ansible-core before 2.19 puts around an error of a template: the whole text, which may hold a secret.
_QUOTED = re.compile(r"^template error while templating string: (.*?)\. String: .*")
_ENDLESS = re.compile(r"(?i)recursi")
# Filters and tests that take a variable whose template fails for one that is not set.
_HIDING = ("default", "d", "defined", "undefined")


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
        return ", ".join(name if "[" in name else f"{name!r}" for name in names) + " is not defined"
    if _ENDLESS.search(text):
        return "its template refers to itself"
    for line in text.splitlines():
        line = _QUOTED.sub(r"Syntax error in template: \1", line).replace("Error rendering template: ", "")
        if _HARMLESS.search(line):
            return one_line(line.strip())[:300]
    return f"can't be rendered ({type(error).__name__}); this shows more: {ask}"


class Renderer:
    """Ansible's template engine for a whole fleet: compiling a text is slower than rendering it, and hosts share most texts."""

    def __init__(self, loader: Any) -> None:
        self._templar = Templar(loader=loader, variables={})
        self._raw: dict[str, dict[str, Any]] = {}
        self._read: dict[str, tuple[frozenset[str], frozenset[_Path]]] = {}
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
        for name in _LOOKUPS if Origin is None else ():
            environment.globals[name] = self._strictly(environment.globals[name])

    def _strictly(self, lookup: Callable[..., Any]) -> Callable[..., Any]:
        """Return a lookup of ansible-core before 2.19 whose default hides no errors in a variable that is set."""

        def strict(plugin: str, *terms: Any, **options: Any) -> Any:
            if plugin.rpartition(".")[2] == "vars" and "default" in options:
                variables = self._templar.available_variables
                for term in terms:
                    if isinstance(term, str) and term in variables and not isinstance(variables[term], _Strict):
                        _ = _Strict(self, variables)[term]
            return lookup(plugin, *terms, **options)

        return strict

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

    def raw(self, hosts: Any, host: str) -> dict[str, Any]:
        """Return a host's variables from C(hostvars), which computes them each time."""
        if host not in self._raw:
            self._raw[host] = hosts.raw_get(host)
        return self._raw[host]

    def read(self, text: str) -> tuple[frozenset[str], frozenset[_Path]]:
        """Return (the variables that a template names, those that it tests or has a default for, with their keys)."""
        found = self._read.get(text)
        if found is None:
            try:
                parsed = self._environment.parse(text)
                looked_up = frozenset(_looked_up(parsed))
                names = looked_up.union(meta.find_undeclared_variables(parsed))
                found = names, frozenset((name,) for name in looked_up).union(_tested(parsed))
            except TemplateError:
                found = frozenset(), frozenset()
            self._read[text] = found
        return found


class _Key(str):
    """The name of a variable whose value is a key: base[site]."""


_Path = tuple[Any, ...]  # a variable's name, and the keys below it


def _tested(parsed: nodes.Template) -> Iterator[_Path]:
    """Yield what a template tests, has a default for, assigns, or takes from another host, where the same may be hidden."""
    for node in parsed.find_all((nodes.Filter, nodes.Test)):
        if node.name in _HIDING and node.node is not None:
            yield from _paths(node.node)
    for assigned in parsed.find_all(nodes.Assign):
        yield from _paths(assigned.node)
    for item in parsed.find_all((nodes.Getattr, nodes.Getitem)):
        yield from (path for path in _paths(item) if path[0] == "hostvars")


def _paths(node: nodes.Node) -> Iterator[_Path]:
    """Yield each variable in an expression, with the keys that are not computed."""
    keys: list[Any] = []
    current: Any = node
    while isinstance(current, (nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Call)):
        if isinstance(current, nodes.Getattr):
            keys.append(current.attr)
        elif isinstance(current, nodes.Getitem) and isinstance(current.arg, nodes.Const):
            keys.append(current.arg.value)
        elif isinstance(current, nodes.Getitem) and isinstance(current.arg, nodes.Name):
            keys.append(_Key(current.arg.name))
        else:
            keys = []
        current = current.node
    if isinstance(current, nodes.Name):
        yield (current.name, *reversed(keys))
    elif current is not None:
        for child in current.iter_child_nodes():
            yield from _paths(child)


def _looked_up(parsed: nodes.Template) -> Iterator[str]:
    """Return the names in lookup('vars', ...), whose default hides errors in them just like the filter default."""
    for call in parsed.find_all(nodes.Call):
        words = [one.value for one in call.args if isinstance(one, nodes.Const) and isinstance(one.value, str)]
        named = isinstance(call.node, nodes.Name) and call.node.name in _LOOKUPS
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

    def raw_get(self, name: str) -> Any:
        return self._variables.raw_get(name)  # type: ignore[attr-defined]

    def __init__(self, renderer: Renderer, hostvars: Any) -> None:
        super().__init__(renderer, hostvars)
        self._hosts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._hosts:
            raw = self.raw_get(name)
            self._hosts[name] = _Strict(self._renderer, _Owned({**raw, "hostvars": self})) if isinstance(raw, dict) else raw
        return self._hosts[name]


class Resolver:
    """The variables of one host, rendered."""

    def __init__(
        self,
        renderer: Renderer,
        variables: dict[str, Any],
        problem: Callable[[str], None],
        held: dict[Any, bool] | None = None,
    ) -> None:
        self._renderer = renderer
        strict = {"hostvars": _StrictHosts, "vars": _Strict} if Origin is None and not isinstance(variables, _Owned) else {}
        if variables.keys() & strict.keys():
            variables = _Owned(variables)
            for name in variables.keys() & strict.keys():
                variables[name] = strict[name](renderer, variables[name])
        self._variables = variables
        self._problem = problem
        self._held: dict[Any, bool] = {} if held is None else held
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
            text = _OMIT
        except (AnsibleError, TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            variable = re.split(r"\W", where, maxsplit=1)[0]
            ask = f"ansible {self._variables.get('inventory_hostname')} -m ansible.builtin.debug -a var={variable}"
            self._problem(f"{where}: {reason_of(error, ask)}{_near(near)}")
            return UNRESOLVED
        if isinstance(value, str) and not self._references_hold(value, where, near):
            return UNRESOLVED
        return _OMIT if isinstance(text, str) and text == self._variables.get("omit") else text

    def _references_hold(self, text: str, where: str, near: str) -> bool:
        """True if neither a default nor a test in a template, or in a variable that it names, hides an error; else report it."""
        names, tested = self._renderer.read(text)
        held = [self._reference_holds(name, f"{where} -> {name}", near) for name in sorted(names)]
        return all(held) and all([self._path_holds(path, where, near) for path in sorted(tested, key=repr)])

    def _reference_holds(self, name: str, where: str, near: str) -> bool:
        if name in self._held:
            return self._held[name]
        self._held[name] = True  # ends the recursion if variables name each other
        value = self._variables.get(name)
        if name.startswith("ansible_") or name in _MAGIC:
            return True
        if Origin is None and isinstance(value, (Mapping, list)):
            failed: list[str] = []
            Resolver(self._renderer, self._variables, failed.append, self._held).rendered(value, where, near)
            for line in failed:
                self._problem(line)
            self._held[name] = not failed
        else:
            texts = list(_texts(value, where, place_of(value) or near))
            self._held[name] = all([self._references_hold(*text) for text in texts])
        return self._held[name]

    def _path_holds(self, path: _Path, where: str, near: str) -> bool:
        """True if the variable at that path can be rendered, or isn't set."""
        if path[0] == "vars":
            path = path[1:]
        if not path or (path[0] in _MAGIC and path[0] != "hostvars") or str(path[0]).startswith("ansible_"):
            return True
        if path not in self._held:
            self._held[path] = True
            failed: list[str] = []
            Resolver(self._renderer, self._variables, failed.append, self._held)._follow(path, where, near)
            for line in failed:
                self._problem(line)
            self._held[path] = not failed
        return self._held[path]

    def _follow(self, path: _Path, where: str, near: str) -> None:
        value: Any = self._variables
        place = ""
        for key in path:
            if isinstance(key, _Key):
                key = self.rendered(self._variables.get(key), str(key))
            if place == "hostvars" and hasattr(value, "raw_get"):
                return self._follow_host(key, path[2:], f"{where} -> hostvars.{key}", near)
            try:
                value = value[key]
            except (LookupError, TypeError):
                return None
            place = inside(place, key) if place else str(key)
            near = place_of(value) or near
            if isinstance(value, str) and "{" in value:
                value = self._rendered_text(value, f"{where} -> {place}", near)
        return None

    def _follow_host(self, host: str, path: _Path, where: str, near: str) -> None:
        hosts = self._variables["hostvars"]
        if path and host in hosts and not str(path[0]).startswith("ansible_"):
            variables = {**self._renderer.raw(hosts, host), "hostvars": hosts}
            Resolver(self._renderer, variables, self._problem)._path_holds(path, where, near)


def _texts(value: Any, where: str, near: str, depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield (text, its place, where it was written) of each template in a value that is not rendered."""
    if isinstance(value, str):
        if "{" in value:
            yield value, where, place_of(value) or near
    elif isinstance(value, (Mapping, list)) and depth < MAX_DEPTH:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _texts(item, inside(where, key) if isinstance(value, Mapping) else f"{where}[{key}]", near, depth + 1)
