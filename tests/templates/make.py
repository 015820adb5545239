"""Writes expected.json: what jinja2 makes of the templates beside this file, in the surroundings that transformers gives them.

Needs jinja2 3.1 (pip install jinja2). The date is 2026-01-15, 12:00.
"""

import datetime
import json
import pathlib

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(Extension):
    """The tag that marks what an assistant said: a block with a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = refuse
env.globals["strftime_now"] = datetime.datetime(2026, 1, 15, 12).strftime

expected = {}
for path in sorted(HERE.glob("*.jinja")):
    template = env.from_string(path.read_text())
    for name, conversation in json.loads((HERE / "conversations.json").read_text()).items():
        for prompt in (True, False):
            variables = {"tools": None, "documents": None, **conversation}
            try:
                shown = template.render(**variables, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
            except jinja2.exceptions.TemplateError as e:
                shown = {"raised": str(e)}
            except Exception as e:
                shown = {"engine": f"{type(e).__name__}: {e}"}
            expected[f"{path.stem} {name} {prompt}"] = shown
(HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
