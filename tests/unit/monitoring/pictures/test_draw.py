"""Pictures of flows: what they show, what they escape, and what happens without Graphviz."""

import operator
import random
import re
import subprocess
import time
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.needs import program

from anabranch import Flow
from anabranch.definition import scope
from anabranch.definition.branching import case, merge, switch
from anabranch.definition.graph import Graph
from anabranch.definition.mapping import apply_map
from anabranch.definition.task import Parameter, flatten, task, unmapped
from anabranch.errors import DrawingError, GraphvizMissing, OptionError
from anabranch.monitoring.pictures import draw as drawing
from anabranch.monitoring.pictures import mermaid
from anabranch.monitoring.pictures import picture as pictures
from anabranch.monitoring.pictures.dot import dot_text
from anabranch.monitoring.pictures.draw import draw
from anabranch.monitoring.pictures.mermaid import mermaid_text
from anabranch.monitoring.pictures.picture import Box, DrawnEdge, DrawnGroup, Picture, picture
from anabranch.states import (
    Cached,
    Cancelled,
    Counts,
    Crashed,
    Failed,
    Failure,
    Mapped,
    Pending,
    Running,
    Skipped,
    State,
    Success,
    TimedOut,
    TriggerFailed,
)

needs_graphviz = pytest.mark.usefixtures("graphviz")
SVG = "{http://www.w3.org/2000/svg}"
TOOLTIP = "{http://www.w3.org/1999/xlink}title"


@pytest.fixture(scope="module")
def graphviz() -> None:
    program("dot")


@task
def source(root):
    return [root]


@task
def parse(path, encoding="utf-8"):
    return path


@task
def total(records):
    return len(records)


@task
def load(n):
    return n


def flow_of(build, name="corpus"):
    graph = Graph(name)
    with scope.open_scope(graphs=(graph,)):
        build(graph)
    graph.settle()
    return graph


def rich_flow():
    """A bit of everything: parameter, maps, flatten, condition, switch, merge, nested flows."""

    def build(graph):
        paths = source(Parameter("root", default="."))
        records = parse.map(paths, encoding=unmapped("utf-8"))
        with scope.open_scope(graphs=(graph, Graph("inner"))):
            n = total(parse.map(flatten(records)))
            with scope.open_scope(graphs=(graph, Graph("inner"), Graph("innermost"))):
                load(n)
        with case(n > 1000, True):
            big = load(n)
        with case(n, 0):
            small = load(n)
        merge(big, small)
        switch(n, {"a": load(1)}, default=load(2, upstream_tasks=[small]))

    return flow_of(build)


def box(drawn, title):
    (found,) = [each for each in drawn.root.all_boxes() if each.title.lstrip("✓✗↷…►↻‖■ ") == title]
    return found


def lines_into(drawn, title):
    return [line for line in drawn.lines if line.head == box(drawn, title).id]


# What a picture shows -------------------------------------------------------------------------------------------------


def test_every_node_is_one_box_and_roles_differ():
    # given / when
    graph = rich_flow()
    drawn = picture(graph)

    # then
    assert len(list(drawn.root.all_boxes())) == len(graph)
    assert [box(drawn, name).role for name in ("root", "source", "case(True)", "merge", "gt", "flatten(parse)")] == [
        "parameter", "task", "condition", "step", "step", "step",
    ]  # fmt: skip


def test_a_map_is_one_box_with_its_width_where_that_is_known():
    # given
    drawn = picture(flow_of(lambda _: (parse.map([1, 2, 3]), load.map(source(1)))))

    # then
    assert (box(drawn, "parse").is_map, box(drawn, "parse").detail) == (True, "× 3")
    assert (box(drawn, "load").is_map, box(drawn, "load").detail) == (True, "× n")
    assert (box(drawn, "source").is_map, box(drawn, "source").detail) == (False, "")


def test_edges_tell_their_argument_and_their_kind():
    # given
    drawn = picture(rich_flow())

    # then
    assert [(line.kind, line.label, line.mapped) for line in lines_into(drawn, "parse")] == [("data", "path", True)]
    assert [(line.kind, line.label) for line in lines_into(drawn, "load-1")] == [("data", "n"), ("gate", "")]
    assert [line.kind for line in lines_into(drawn, "load-4")] == ["order", "gate"]
    assert [line.label for line in lines_into(drawn, "merge")] == ["", ""]  # its arguments are ours


def test_one_upstream_for_two_arguments_is_one_line():
    drawn = picture(flow_of(lambda _: parse(x := source(1), encoding=x)))
    assert [line.label for line in lines_into(drawn, "parse")] == ["path, encoding"]


def test_operators_show_their_constants_and_which_operand_is_which():
    # given
    def build(_):
        a, b = source(1), load(1)
        operator.sub(a, b)
        operator.gt(a, 1000)
        operator.pow(10, operator.mul(a, 1.5))
        a["key"]

    drawn = picture(flow_of(build))

    # then
    assert sorted(line.label for line in lines_into(drawn, "sub")) == ["a", "b"]
    assert [line.label for line in lines_into(drawn, "gt")] == [""]
    assert [box(drawn, name).detail for name in ("sub", "gt", "pow", "source['key']")] == [
        "",
        "(·, 1000)",
        "(10, ·)",
        "",
    ]


def test_the_maps_of_an_apply_map_are_maps_each():
    # given
    def per_element(x):
        with case(x > 1, True):
            shrunk = load(x)
        return merge(shrunk, parse(x))

    # when
    drawn = picture(flow_of(lambda _: apply_map(per_element, [1, 2, 3])))

    # then
    assert all(each.is_map for each in drawn.root.all_boxes())
    assert all(line.mapped for line in drawn.lines)
    assert (box(drawn, "element").detail, box(drawn, "gt").detail) == ("× 3", "(·, 1) × n")


def test_constants_of_operators_are_not_asked_for_a_repr_that_could_be_slow_or_raise():
    # given
    class Loud:
        def __repr__(self):
            raise AssertionError("asked for its repr")

    def build(_):
        a = source(1)
        a.is_equal(Loud())
        a + 10**10_000
        a - ("x" * 1_000_000)

    # when
    drawn = picture(flow_of(build))

    # then
    assert [box(drawn, name).detail for name in ("is_equal", "add")] == ["(·, …)", "(·, …)"]
    assert len(box(drawn, "sub").detail) == pictures.MAX_TITLE


def test_nested_flows_are_groups_in_groups():
    # given
    drawn = picture(rich_flow())

    # then
    (inner,) = drawn.root.groups.values()
    (innermost,) = inner.groups.values()
    assert (inner.name, innermost.name) == ("inner", "innermost")
    assert [each.title for each in inner.boxes] == ["flatten(parse)", "parse-1", "total"]
    assert [each.title for each in innermost.boxes] == ["load"]


@pytest.mark.parametrize(
    ("state", "title", "detail"),
    [
        (Success(), "✓ parse", "× n"),
        (Mapped(counts=Counts(1234, 1234)), "✓ parse", "× 1,234"),
        (Mapped(counts=Counts(0)), "✓ parse", "× 0"),
        (Failed(counts=Counts(10_000, 9_991, 0, 9)), "✗ parse", "9,991/10,000 ✗9"),
        (Running(counts=Counts(10_000, 2_848, 12, 1)), "► parse", "2,848/10,000 ✗1 ↷12"),
        (Cancelled(counts=Counts(10, 4, 0, 6)), "■ parse", "4/10 ✗6 Cancelled"),
        (Failed(failure=Failure("anabranch.errors.UnmappableError", "None")), "✗ parse", "× n UnmappableError"),
        (Pending(), "… parse", "× n"),
        (None, "… parse", "× n"),
    ],
)
def test_a_map_with_a_state_shows_counts_and_failures(state, title, detail):
    # given
    graph = flow_of(lambda _: parse.map(source(1)))

    # when
    drawn = picture(graph, {"parse": state} if state else {})

    # then
    assert (box(drawn, "parse").title, box(drawn, "parse").detail) == (title, detail)
    assert box(drawn, "parse").is_map


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        (Success(), ""),
        (Cached(), "Cached"),
        (Skipped(), "Skipped"),
        (TimedOut(), "TimedOut"),
        (TriggerFailed(), "TriggerFailed"),
        (Crashed(), "Crashed"),
        (Failed(failure=Failure("requests.exceptions.ConnectionError", "no route")), "ConnectionError"),
    ],
)
def test_a_state_that_its_symbol_does_not_tell_is_named(state, detail):
    drawn = picture(flow_of(lambda _: load(1)), {"load": state})
    assert box(drawn, "load").detail == detail


def test_the_tooltip_has_the_message_bounded():
    # given
    failure = Failure("ValueError", "first line\nsecond line")
    state = Failed(message="text " * 1000, failure=failure)

    # when
    drawn = picture(flow_of(lambda _: load(1)), {"load": state})

    # then
    first, second, third = box(drawn, "load").tooltip.split("\n")
    assert (first, second[:12], len(second), third) == ("load", "Failed: text", 400, "ValueError: first line")


def test_every_state_differs_from_every_other_without_its_colour():
    symbols = [(look.symbol, look.dashed) for look in pictures.LOOKS.values()]
    assert all(symbol for symbol, _ in symbols)
    told_apart_by_their_word = {"✗", "↻"}  # TriggerFailed beside Failed, Retrying beside Looped
    assert {symbol for symbol, _ in symbols if [s for s, _ in symbols].count(symbol) > 1} == told_apart_by_their_word


def test_text_can_be_read_on_every_fill():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for look in (*pictures.LOOKS.values(), *pictures.ROLE_LOOKS.values()):
        assert contrast(look.fill, look.ink) >= 5, look
    for background in ("#ffffff", "#0d1117", "#111111"):
        assert contrast(pictures.GREY, background) >= 4, background


def test_the_legend_explains_shapes_lines_and_the_states_there_are():
    # given
    graph = flow_of(lambda _: load(source(1)), name="Legend")

    # when
    plain, stated = picture(graph, legend=True), picture(graph, {"load": TimedOut()}, legend=True)

    # then
    titles = [each.title for each in plain.root.groups[""].boxes]
    assert titles == ["parameter", "task", "map", "condition", "merge, flatten, operator …"]
    assert [each.title for each in stated.root.groups[""].boxes][5:] == ["✗ Failed", "… Pending"]
    assert {line.kind for line in plain.lines} == {"data", "order", "gate"}
    assert draw(graph, legend=True) != draw(graph)


def test_names_are_clipped_in_the_box_and_whole_in_the_tooltip():
    graph = flow_of(lambda _: load(1, task_args={"name": "x" * 200}))
    (only,) = picture(graph).root.all_boxes()
    assert (only.title, only.tooltip) == ("x" * 39 + "…", "x" * 200)


# Texts ----------------------------------------------------------------------------------------------------------------


def small_flow():
    def build(graph):
        paths = source(Parameter("root", default="."))
        with scope.open_scope(graphs=(graph, Graph("inner"))):
            records = parse.map(paths)
        with case(total(records), 3):
            load(1, upstream_tasks=[paths])

    return flow_of(build)


def test_mermaid_text_of_a_small_flow():
    states = {"source": Success(), "parse": Failed(counts=Counts(1234, 1230, 0, 4)), "load": Skipped()}
    assert draw(small_flow(), format="mermaid", states=states) == (
        '---\n'
        'title: "corpus"\n'
        '---\n'
        'flowchart LR\n'
        '  n0(["… root"]):::c1\n'
        '  n1("✓ source"):::c2\n'
        '  n3("… total"):::c1\n'
        '  n4{"… case#40;3#41;"}:::c1\n'
        '  n5("↷ load<br/>Skipped"):::c3\n'
        '  subgraph g0 ["inner"]\n'
        '    n2[["✗ parse<br/>1,230/1,234 ✗4"]]:::c4\n'
        '  end\n'
        '  class g0 c0\n'
        '  n0 -->|"root"| n1\n'
        '  n1 ==>|"path"| n2\n'
        '  n2 -->|"records"| n3\n'
        '  n3 --> n4\n'
        '  n4 --> n5\n'
        '  n1 --> n5\n'
        '  linkStyle 5 stroke-dasharray:1 4\n'
        '  linkStyle 4 stroke-dasharray:6 4\n'
        '  classDef c0 fill:none,stroke:#767c85\n'
        '  classDef c1 fill:#eef1f4,color:#1b1f24,stroke:#767c85,stroke-width:1px\n'
        '  classDef c2 fill:#00795a,color:#ffffff,stroke:#767c85,stroke-width:1px\n'
        '  classDef c3 fill:#c3c9d0,color:#1b1f24,stroke:#767c85,stroke-width:1px,stroke-dasharray:4 3\n'
        '  classDef c4 fill:#b84a00,color:#ffffff,stroke:#767c85,stroke-width:3px\n'
    )  # fmt: skip


def test_dot_text_of_a_small_flow():
    # when
    text = draw(small_flow(), states={"parse": Failed(counts=Counts(1234, 1230, 0, 4))})
    lines = [line.strip() for line in text.splitlines()]

    # then
    assert [line for line in lines if " -> " in line] == [
        "n0 -> n1 [label=<root>]",
        "n1 -> n2 [penwidth=2.4 label=<path>]",
        "n2 -> n3 [label=<records>]",
        "n3 -> n4",
        "n4 -> n5 [style=dashed]",
        "n1 -> n5 [style=dotted]",
    ]
    (parsed,) = [line for line in lines if line.startswith("n2 [")]
    assert parsed == (
        'n2 [label=<✗ parse<BR/><FONT POINT-SIZE="9">1,230/1,234 ✗4</FONT>> shape=box style="rounded,filled" '
        'peripheries=2 fillcolor="#b84a00" fontcolor="#ffffff" tooltip="parse\\nFailed"]'
    )
    assert lines.index("subgraph cluster_0 {") == lines.index(parsed) - 2
    assert any(line.startswith("n0 [") and "shape=ellipse" in line for line in lines)
    assert any(line.startswith("n4 [") and "shape=diamond" in line for line in lines)


@pytest.mark.parametrize("format", ["dot", "mermaid"])
def test_the_same_flow_gives_the_same_text(format):
    assert draw(rich_flow(), format=format) == draw(rich_flow(), format=format)


@pytest.mark.parametrize("format", ["dot", "mermaid"])
def test_text_grows_with_nodes_and_edges_only(format):
    # given
    def chain_of(n):
        def build(_):
            node = source(1)
            for _i in range(n):
                node = load(node)

        return flow_of(build)

    small, large = chain_of(300), chain_of(3000)

    # when
    began = time.perf_counter()
    sizes = [len(draw(graph, format=format)) for graph in (small, large)]

    # then
    assert sizes[1] < 12 * sizes[0]
    assert time.perf_counter() - began < 5  # takes 0.1 s; a quadratic one would take minutes


def test_a_map_of_a_million_elements_costs_as_much_as_one_of_three():
    few, many = (flow_of(lambda _, n=n: parse.map(range(n))) for n in (3, 1_000_000))
    state = Failed(counts=Counts(1_000_000, 999_991, 0, 9))
    assert len(draw(many, states={"parse": state})) < len(draw(few)) + 100


# Escaping -------------------------------------------------------------------------------------------------------------

EVIL = [
    '"', "\\", '\\"', "a\\", "\\N", "\\G", "\\n", "\\\\N", "end", "End", '"end"', "#", "#35;", "#quot;", "a;b", "`x`",
    "`**b**`", "**bold** _it_", "<b>x</b>", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&amp;",
    "&eacute;", "&#65;", "[x]", "(x)", "{x}", "{{x}}", "|x|", "-->", "%% c", '%%{init: {"theme":"dark"}}%%', "1. list",
    "- item", "# head", "style a:#b; c", "classDef x:#y; z", 'click n0 "javascript:alert(1)"', "$$\\frac{a}{b}$$",
    "fa:fa-car x", "http://example.com", "a\nb", "a\r\nb", "a\tb", " x ", "\u202eevil", "\ud800", "\x00\x01", "日本語",
    "עברית", "🎉", "default", "subgraph", "n0", "---", "", " ", "@{ shape: x }", "<", ">", "<<x>>", "--", "/*", "//",
    "}", "]", '"]:::c0', "<br/>", "%", "'", "\u200b", "__x__", "case('a')", "a--b", "\ufeff", "a" * 300,
]  # fmt: skip


def picture_of(names):
    """A picture in which each name stands in every place that a name can have."""
    root = DrawnGroup(pictures.one_line(names[0], 40))
    for i, name in enumerate(names):
        text = pictures.one_line(name, 40)
        role = ("task", "parameter", "condition", "step")[i % 4]
        group = root.at((text,)) if i % 7 == 0 else root
        group.boxes.append(Box(f"n{i}", role, text, pictures.PALE, i % 2 == 0, text, text))
    texts = [pictures.one_line(name, 40) for name in names]
    return Picture(root, [DrawnEdge(f"n{i}", f"n{i + 1}", "data", texts[i]) for i in range(len(names) - 1)])


def squeezed(text):
    """Without what SVG may do to spaces, and without the joiners in tooltips."""
    return re.sub(r"\s+", " ", text.replace("\u2060", "").replace("\u00a0", " ")).strip()


def read_back(drawn):
    """Texts and tooltips by Graphviz's title, as an SVG viewer reads them."""
    svg = drawing._graphviz(dot_text(drawn), "svg").decode()
    found = {}
    for element in ElementTree.fromstring(svg[svg.index("<svg") :]).iter(f"{SVG}g"):
        if element.get("class") in ("node", "edge"):
            texts = " ".join(text.text or "" for text in element.iter(f"{SVG}text"))
            tooltips = [a.get(TOOLTIP) for a in element.iter(f"{SVG}a")]
            found[element.find(f"{SVG}title").text] = (squeezed(texts), squeezed((tooltips or [""])[0]))
    return found


def assert_names_survive(names):
    found = read_back(picture_of(names))
    for i, name in enumerate(names):
        shown = squeezed(pictures.one_line(name, 40))
        assert found[f"n{i}"] == (squeezed(f"{shown} {shown}"), shown)
        if i + 1 < len(names):
            assert found[f"n{i}->n{i + 1}"][0] == shown


@needs_graphviz
def test_evil_names_come_out_of_graphviz_as_they_went_in():
    assert_names_survive(EVIL)


@needs_graphviz
@settings(max_examples=40, deadline=None)  # each example starts `dot`
@given(
    st.lists(
        st.text(st.characters(), max_size=50) | st.text("\\\"'<>&#;{}[]|`%NGELnlr -", max_size=8),
        min_size=1,
        max_size=30,
    )
)
def test_any_names_come_out_of_graphviz_as_they_went_in(names):
    assert_names_survive(names)


def unescaped(text):
    return re.sub("#([0-9]+);", lambda found: chr(int(found[1])), text).replace("\u2060", "")


MERMAID_LINES = [
    r'n\d+ (?:-->|==>)(?:\|"(?P<label>T)"\|)? n\d+',
    r'n\d+(?:\[\[|\(\[|\(|\{|\[)"(?P<title>T)(?:<br/>(?P<detail>T))?"(?:\]\]|\]\)|\)|\}|\]):::c\d+',
    r'subgraph g\d+ \["(?P<group>T)"\]',
    r"end",
    r"class g\d+ c0",
    r"classDef c\d+ [a-z]+:[^;\"]*",
]
# Letters, digits, blanks, what is not ASCII, a few marks, and numeric entities: nothing in a text can end its quotes.
MERMAID_TEXT = r"(?:[A-Za-z0-9 _,/]|[^\x00-\x7f]|#[0-9]+;)*"


def assert_mermaid_holds(names):
    texts = [pictures.one_line(name, 40) for name in names]
    front, title, front_end, head, *body, last = mermaid_text(picture_of(names)).split("\n")
    assert (front, front_end, head, last) == ("---", "---", "flowchart LR", "")
    assert re.fullmatch(r'title: "(?:\\U[0-9a-f]{8}|[^\W]| )*"', title)
    labels, titles = [], {}
    for line in body:
        patterns = [pattern.replace("T", MERMAID_TEXT, 2) for pattern in MERMAID_LINES]
        (match,) = [found for pattern in patterns if (found := re.fullmatch(pattern, line.strip()))]
        fields = match.groupdict()
        if "label" in fields:
            labels.append(unescaped(fields["label"] or ""))
        if "title" in fields:
            titles[line.strip().split('"')[0].rstrip("[({")] = (
                unescaped(fields["title"]),
                unescaped(fields["detail"] or ""),
            )
    assert labels == texts[:-1]
    assert titles == {f"n{i}": (text or " ", text) for i, text in enumerate(texts)}


def test_evil_names_stay_inside_mermaids_quotes():
    assert_mermaid_holds(EVIL)


@given(st.lists(st.text(st.characters(), max_size=50), min_size=1, max_size=10))
def test_any_names_stay_inside_mermaids_quotes(names):
    assert_mermaid_holds(names)


def test_a_mermaid_line_with_style_keeps_its_semicolons():
    # Mermaid strips the last `;` of a line that looks like `style…:…#…;`, so no text may hold a colon.
    assert ":" not in mermaid._mermaid("style a: #b;")


@pytest.mark.parametrize("text", ["a\\nb", "$$x$$", "fab:fa-car"])
def test_what_mermaid_looks_for_behind_entities_is_taken_apart(text):
    escaped = mermaid._mermaid(text)
    assert "\u2060" in escaped
    assert unescaped(escaped) == text


def test_names_of_a_users_tasks_are_escaped_on_the_way():
    # given
    graph = flow_of(lambda _: load(1, task_args={"name": 'a "b" <c> & [end]; \\N'}), name='"flow" <&>')

    # then
    assert '"a #34;b#34; #60;c#62; #38; #91;end#93;#59; #92;N"' in draw(graph, format="mermaid")
    assert "<a &quot;b&quot; &lt;c&gt; &amp; [end&#93;; \\\\N>" in draw(graph, format="dot")


# Formats and files ----------------------------------------------------------------------------------------------------


@needs_graphviz
def test_svg_is_transparent_and_can_stand_in_a_page():
    # when
    text = draw(rich_flow(), format="svg", states={"load": Success()}, legend=True)

    # then
    assert text.startswith("<svg")
    root = ElementTree.fromstring(text)
    (whole,) = [g for g in root.iter(f"{SVG}g") if g.get("class") == "graph"]
    backgrounds = [p.get("fill") for p in whole.findall(f"{SVG}polygon")]
    assert all(fill in ("none", "transparent") for fill in backgrounds)
    assert not list(root.iter(f"{SVG}script"))


@needs_graphviz
@pytest.mark.parametrize("states", [None, {"load": Success()}])
def test_every_format_writes_its_file_and_returns_the_path(tmp_path, states):
    for name, start in (("a.dot", b"digraph"), ("a.mmd", b"---"), ("a.svg", b"<svg"), ("a.png", b"\x89PNG")):
        path = tmp_path / name
        assert draw(rich_flow(), filename=path, states=states) == str(path)
        assert path.read_bytes().startswith(start)


def test_a_file_has_the_text_and_the_name_as_they_are_given(tmp_path):
    path = tmp_path / "sub.v2"
    assert draw(rich_flow(), format="mermaid", filename=str(path)) == str(path)
    assert path.read_text(encoding="utf-8") == draw(rich_flow(), format="mermaid")


@needs_graphviz
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("corpus", "corpus.png"),
        ("../../etc/daily: tiles", "etc_daily_tiles.png"),
        ("Köln 日本", "Köln_日本.png"),
        ("***", "flow_.png"),
        ("CON", "flow_CON.png"),
        ("-rf", "rf.png"),
        ("é" * 300, "é" * 60 + ".png"),
    ],
)
def test_a_png_without_a_filename_is_named_after_the_flow(tmp_path, monkeypatch, name, file):
    monkeypatch.chdir(tmp_path)
    assert draw(flow_of(lambda _: load(1), name=name), format="png") == file
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_an_unknown_format_is_refused_with_those_there_are():
    with pytest.raises(OptionError, match="no format 'pgn'; there are: dot, mermaid, svg, png; did you mean 'png'"):
        draw(Graph("x"), format="pgn")


def test_a_file_is_not_given_the_suffix_of_another_format(tmp_path):
    with pytest.raises(OptionError, match="a name for png, found format 'dot'"):
        draw(Graph("x"), format="dot", filename=tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["svg", "png"])
def test_without_graphviz_the_error_tells_how_to_get_it_and_what_works_without(tmp_path, monkeypatch, format):
    # given
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    # when / then
    with pytest.raises(GraphvizMissing, match=r"apt install graphviz.*format=\"dot\" or format=\"mermaid\"") as caught:
        draw(rich_flow(), format=format)
    assert isinstance(caught.value, RuntimeError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["dot", "mermaid"])
def test_texts_need_no_graphviz(tmp_path, monkeypatch, format):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "source" in draw(rich_flow(), format=format)


def test_what_graphviz_says_when_it_fails_is_in_the_error(monkeypatch):
    # given
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, b"", b"Error: out of memory\n")

    monkeypatch.setattr(drawing.shutil, "which", lambda _: "/bin/dot")
    monkeypatch.setattr(drawing.subprocess, "run", run)

    # when / then
    with pytest.raises(DrawingError, match=r"Graphviz \(/bin/dot\) ended with code 1: Error: out of memory"):
        draw(rich_flow(), format="svg")


@needs_graphviz
@pytest.mark.timeout(60)
def test_a_large_flow_is_laid_out_roughly_rather_than_never():
    # given
    rng = random.Random(7)
    root = DrawnGroup("large")
    root.boxes.extend(Box(f"n{i}", "task", f"task {i}", pictures.GREEN) for i in range(600))
    lines = [DrawnEdge(f"n{rng.randrange(i)}", f"n{i}", "data", "x") for i in range(1, 600) for _ in range(2)]

    # when
    text = dot_text(Picture(root, lines))

    # then
    assert "nslimit" in text
    assert "label=<x>" not in text
    assert drawing._graphviz(text, "svg")


def test_an_empty_flow_can_be_drawn():
    assert draw(Graph("x")).startswith("digraph flow {")
    assert draw(Graph("x"), format="mermaid", states={}, legend=True)


def test_states_of_the_users_own_look_like_the_state_they_extend():
    class Odd(Failed):
        __slots__ = ()

    class Other(State):
        __slots__ = ()

    assert pictures.look_of(Odd()) == pictures.LOOKS[Failed]
    assert pictures.look_of(Other()) == pictures.PALE


def test_deferred_calls_of_a_run_are_drawn_below_their_callers() -> None:
    @task
    def leaf(x: int) -> int:
        return x

    @task
    def grow(n: int) -> object:
        return [leaf(n), grow(n - 1)] if n else 0

    with Flow("f") as flow:
        grow(2)
    state = flow.run()

    drawn = picture(flow.graph, state.states())

    titles = {box.id: box.title for box in drawn.root.all_boxes()}
    lines = [(titles[line.tail], titles[line.head], line.label) for line in drawn.lines]
    assert [(tail.split()[-1], head.split()[-1]) for tail, head, _ in lines] == [
        ("grow", "leaf"),
        ("grow", "grow"),
        ("grow", "leaf"),
        ("grow", "grow"),
    ]
    assert {label for *_, label in lines} == {"calls"}
    assert "calls" in flow.visualize(state, format="mermaid")
