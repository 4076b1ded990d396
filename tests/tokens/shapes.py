"""Chat templates in the shape of each family's own, put together from what differs.

They are short: one kind of frame round every message, and the family's way to write reasoning,
calls and results. What models were trained on to the letter is in their own templates.
"""

import json
from dataclasses import dataclass

SKELETON = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {{- START }}
    {%- if message.reasoning_content and THINKS %}
      {{- THINK }}{{ message.reasoning_content }}{{ THOUGHT }}
    {%- endif %}
    {{- message.content }}
    {%- if message.tool_calls %}
      {{- BEFORE }}
      {%- for call in message.tool_calls %}
        {%- set function = call.function %}
        {%- set given = function.arguments %}
        {%- set first = loop.first %}{% set number = loop.index0 %}
        {%- if not first %}{{ BETWEEN }}{% endif %}
        {#- -#}CALL{#- -#}
      {%- endfor %}
      {{- AFTER }}
    {%- endif %}
    {{- END }}
  {%- elif message.role == 'tool' %}
    {#- -#}RESULT{#- -#}
  {%- else %}
    {{- '<|' ~ message.role ~ '|>' }}{{ message.content }}{{ END }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ START }}{% endif %}
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What differs between families; `call` and `result` are Jinja, the rest text."""

    call: str
    reasoning: str = "passthrough"
    start: str = "<|assistant|>"
    think: str = "<think>\n"
    thought: str = "\n</think>\n\n"
    before: str = ""
    between: str = ""
    after: str = ""
    end: str = "<|end|>\n"
    result: str = "<|tool|>{{ message.content }}<|end|>\n"

    @property
    def template(self) -> str:
        """The whole chat template."""
        texts: dict[str, str | bool] = {
            "THINKS": self.reasoning != "passthrough",
            "START": self.start,
            "THINK": self.think,
            "THOUGHT": self.thought,
            "BEFORE": self.before,
            "BETWEEN": self.between,
            "AFTER": self.after,
            "END": self.end,
        }
        sets = "".join(
            f"{{%- set {name} = {json.dumps(text, ensure_ascii=False)} %}}\n"
            for name, text in texts.items()
        )
        body = SKELETON.replace("{#- -#}CALL{#- -#}", self.call)
        return sets + body.replace("{#- -#}RESULT{#- -#}", self.result)


JSON = "{{ given | tojson }}"
VALUE = "{{ value if value is string else value | tojson }}"


def each(parameter: str) -> str:
    """Jinja for one piece of text for each argument."""
    return f"{{% for key, value in given.items() %}}{parameter}{{% endfor %}}"


CALLED_BY_ID = "<|tool|>{{ message.tool_call_id }}: {{ message.content }}<|end|>\n"
MISTRAL_RESULT = (
    "{% if message.tool_call_id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
    "[TOOL_RESULTS]{{ message.tool_call_id }}[TOOL_CONTENT]{{ message.content }}[/TOOL_RESULTS]"
)

SHAPES: dict[str, Shape] = {
    "json": Shape(
        before="[",
        call=f'{{"name": {{{{ function.name | tojson }}}}, "arguments": {JSON}}}',
        between=", ",
        after="]",
    ),
    "llama": Shape(
        call=f'{{"name": {{{{ function.name | tojson }}}}, "parameters": {JSON}}}', between="; "
    ),
    "pythonic": Shape(
        before="[",
        call="{{ function.name }}({% for key, value in given.items() %}{% if not loop.first %}, "
        "{% endif %}{{ key }}={{ value | tojson }}{% endfor %})",
        between=", ",
        after="]",
    ),
    "deepseek": Shape(
        reasoning="deepseek_r1",
        before="<｜tool▁calls▁begin｜>",
        call="<｜tool▁call▁begin｜>{{ call.type }}<｜tool▁sep｜>{{ function.name }}\n```json\n"
        f"{JSON}\n```<｜tool▁call▁end｜>",
        between="\n",
        after="<｜tool▁calls▁end｜>",
    ),
    "deepseek31": Shape(
        reasoning="deepseek_v31",
        before="<｜tool▁calls▁begin｜>",
        call="<｜tool▁call▁begin｜>{{ function.name }}<｜tool▁sep｜>"
        + JSON
        + "<｜tool▁call▁end｜>",
        after="<｜tool▁calls▁end｜>",
    ),
    "deepseek_dsml": Shape(
        reasoning="deepseek_v31",
        before="\n\n<｜DSML｜function_calls>\n",
        call='<｜DSML｜invoke name="{{ function.name }}">\n'
        + each(
            '<｜DSML｜parameter name="{{ key }}" string="{{ \'true\' if value is string else '
            f"'false' }}}}\">{VALUE}</｜DSML｜parameter>\n"
        )
        + "</｜DSML｜invoke>\n",
        after="</｜DSML｜function_calls>",
    ),
    "mistral": Shape(
        reasoning="mistral",
        think="[THINK]",
        thought="[/THINK]",
        call="[TOOL_CALLS]{{ function.name }}[CALL_ID]{{ call.id }}[ARGS]" + JSON,
        result=MISTRAL_RESULT,
    ),
    "qwen": Shape(
        reasoning="qwen3",
        call='\n<tool_call>\n{"name": "{{ function.name }}", "arguments": '
        + JSON
        + "}\n</tool_call>",
    ),
    "qwen_coder": Shape(
        reasoning="qwen3",
        call="\n<tool_call>\n<function={{ function.name }}>\n"
        + each("<parameter={{ key }}>\n" + VALUE + "\n</parameter>\n")
        + "</function>\n</tool_call>",
    ),
    "glm45_moe": Shape(
        reasoning="glm45",
        call="\n<tool_call>{{ function.name }}\n"
        + each("<arg_key>{{ key }}</arg_key>\n<arg_value>" + VALUE + "</arg_value>\n")
        + "</tool_call>",
    ),
    "glm47_moe": Shape(
        reasoning="glm45",
        call="<tool_call>{{ function.name }}"
        + each("<arg_key>{{ key }}</arg_key><arg_value>" + VALUE + "</arg_value>")
        + "</tool_call>",
    ),
    "step3": Shape(
        reasoning="step3",
        before="<｜tool_calls_begin｜>",
        call="<｜tool_call_begin｜>function<｜tool_sep｜>"
        + '<steptml:invoke name="{{ function.name }}">'
        + each('<steptml:parameter name="{{ key }}">' + VALUE + "</steptml:parameter>")
        + "</steptml:invoke><｜tool_call_end｜>",
        between="\n",
        after="<｜tool_calls_end｜>",
    ),
    "kimik2": Shape(
        reasoning="kimi_thinking",
        before="<|tool_calls_section_begin|>",
        call="<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>"
        + JSON
        + "<|tool_call_end|>",
        after="<|tool_calls_section_end|>",
        result=CALLED_BY_ID,
    ),
    "kimi_k3": Shape(
        reasoning="kimi_k3",
        think="<|open|>think<|sep|>",
        thought="<|close|>think<|sep|>",
        before="<|open|>tools<|sep|>",
        call='<|open|>call tool="{{ function.name }}" index="{{ number + 1 }}"<|sep|>'
        + each(
            '<|open|>argument key="{{ key }}" type="{{ \'string\' if value is string else '
            "'boolean' if value is boolean else 'number' if value is number else 'null' if value "
            "is none else 'object' if value is mapping else 'array' }}\"<|sep|>"
            f"{VALUE}<|close|>argument<|sep|>"
        )
        + "<|close|>call<|sep|>",
        after="<|close|>tools<|sep|>",
    ),
    "minimax_m2": Shape(
        reasoning="minimax",
        before="\n<minimax:tool_call>\n",
        call='<invoke name="{{ function.name }}">\n'
        + each('<parameter name="{{ key }}">' + VALUE + "</parameter>\n")
        + "</invoke>\n",
        after="</minimax:tool_call>",
    ),
    "cohere": Shape(
        reasoning="cohere_cmd",
        think="<|START_THINKING|>",
        thought="<|END_THINKING|>",
        before="<|START_ACTION|>[\n",
        call='    {"tool_call_id": "{{ call.id }}", "tool_name": "{{ function.name }}", '
        f'"parameters": {JSON}}}',
        between=",\n",
        after="\n]<|END_ACTION|>",
        result=CALLED_BY_ID,
    ),
    "harmony": Shape(
        reasoning="harmony",
        start="<|start|>assistant",
        think="<|channel|>analysis<|message|>",
        thought="<|end|><|start|>assistant",
        call="<|channel|>commentary to=functions.{{ function.name }} <|constrain|>json<|message|>"
        + JSON
        + "<|call|>",
        between="<|start|>assistant",
        end="",
        result="<|start|>functions.{{ message.name }} to=assistant<|channel|>commentary"
        "<|message|>{{ message.content }}<|end|>",
    ),
    "gemma4": Shape(
        reasoning="gemma4",
        think="<|channel>thought\n",
        thought="\n<channel|>",
        call="<|tool_call>call:{{ function.name ~ '{' }}"
        "{% for key, value in given.items() %}{% if not loop.first %},{% endif %}"
        '{{ key }}:{% if value is string %}<|"|>{{ value }}<|"|>{% else %}'
        "{{ value | tojson | replace('\"', '<|\"|>') }}{% endif %}{% endfor %}"
        "{{ '}' }}<tool_call|>",
    ),
}
"""By tool-call family; passthrough has none."""
