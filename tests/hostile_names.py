"""Names and texts that try to be more than text: in a page none of them may be anything else."""

from __future__ import annotations

CORPUS = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "'><svg onload='window.hacked=1'>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "</details></div><style>*{display:none}</style>",
    "<a href=javascript:window.hacked=1>here</a>",
    "{{ 7*7 }} {% raw %} ${7*7} <%= 7*7 %>",
    "$$\\text{math}$$ \\(x\\) \\[y\\]",
    "&lt;b&gt; &amp; <b>bold</b>",
    "<!-- --> ]]> -->",
    "@{title} @fill{safe} $index",
)
CONTROL = ("\x1b[31mred\x1b[0m", "a\x00b\x07c", "line\nline\r\nline\ttab", "\u202egnirts", "\x85\u2028\u2029")
"""What a flow's or task's name cannot have, and texts of log lines, failures and parameters can."""
