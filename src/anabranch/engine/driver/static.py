"""A whole flow as one Dask graph, where all widths are known before anything runs: what ``flow.to_delayed`` gives."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dask._task_spec import Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from anabranch.base.errors import DefinitionError
from anabranch.base.names import ascii_name
from anabranch.base.states import Counts, Running
from anabranch.definition.expressions import Const
from anabranch.definition.frozen import FrozenGraph, FrozenNode
from anabranch.engine.driver.compiler import compile_program, compile_units, program_key
from anabranch.engine.units.elements import width_of
from anabranch.engine.units.shipment import Shipment, own_origin
from anabranch.engine.units.units import Held, Holding, Input, Key, Pieces, Program, Unit
from anabranch.executors.entry import Sourced

CHUNKS = 64  # per map: no pace is known here, so that every map is cut alike


def compile_flow(graph: FrozenGraph, program: Program, token: str, data: bytes) -> Delayed:
    """The flow as a Delayed whose value is a dict: values of the reference nodes by slug.

    Its tasks wait for retries where they run; a failed reference node raises its exception.

    Parameters
    ----------
    data
        The pickled program.

    Raises
    ------
    DefinitionError
        The width of a map depends on a value that only a run gives.
    """
    shipment = Shipment(own_origin(), data)
    layout = _Layout(graph, program, token)
    units = [unit for node in graph.nodes.values() for unit in layout.units_of(node)]
    regions = compile_units(
        units,
        token,
        program=shipment,
        resources=lambda unit: dict(graph.nodes[unit.nodes[0]].policies.resources),
        priority=lambda unit: graph.nodes[unit.nodes[0]].policies.priority,
        is_told=False,
    )
    if not shipment.is_inline:
        regions.append(compile_program(shipment, token))
    layers: dict[str, MaterializedLayer] = {}
    for number, region in enumerate(regions):
        annotations = {"resources": dict(region.resources)} if region.resources else None
        layers[f"{token}-{number}"] = MaterializedLayer(dict(region.graph), annotations=annotations)
    last = Unit(key=layout.key("results"), nodes=graph.reference, inputs=layout.inputs_of(graph.reference))
    keys = tuple(last.upstream_keys())
    task = Task(
        last.key,
        Sourced("enter_results", (shipment.origin,)),
        token,
        data if shipment.is_inline else TaskRef(program_key(shipment, token)),
        pickle.dumps(last),
        keys,
        *(TaskRef(key) for key in keys),
    )
    name = f"{token}-results"
    dependencies: dict[str, set[str]] = {layer: set() for layer in layers}
    return Delayed(
        last.key,
        HighLevelGraph({**layers, name: MaterializedLayer({last.key: task})}, {**dependencies, name: set(layers)}),
        layer=name,
    )


@dataclass
class _Layout:
    """Where everything goes that has been laid out so far."""

    graph: FrozenGraph
    program: Program
    token: str
    widths: dict[str, int] = field(default_factory=dict)
    keys: dict[str, tuple[Key, ...]] = field(default_factory=dict)
    chunks: dict[str, list[range]] = field(default_factory=dict)
    serial: int = 0

    def key(self, name: str) -> Key:
        """A key of its own."""
        self.serial += 1
        return (f"{ascii_name(self.program.run.flow_name)}.{ascii_name(name)}-{self.token}", self.serial)

    def units_of(self, node: FrozenNode) -> list[Unit]:
        """The units that run a node."""
        if node.kind == "parameter":
            return []
        inputs = self.inputs_of(node.whole_upstreams)
        if not node.is_map:
            unit = Unit(key=self.key(node.slug), nodes=(node.slug,), inputs=inputs)
            self.keys[node.slug] = (unit.key,)
            return [unit]
        width = self.widths[node.slug] = self._width_of(node)
        step = max(1, math.ceil(width / CHUNKS))
        ranges = [range(low, min(low + step, width)) for low in range(0, width, step)]
        units = [self._chunk(node, indices, inputs) for indices in ranges]
        self.keys[node.slug], self.chunks[node.slug] = tuple(unit.key for unit in units), ranges
        return units

    def _chunk(self, node: FrozenNode, indices: range, inputs: Mapping[str, Input]) -> Unit:
        above: dict[str, Input] = {}
        for slug in node.element_upstreams:
            if slug in self.chunks:
                near = zip(self.keys[slug], self.chunks[slug], strict=True)
                keys = (key for key, part in near if part.start < indices.stop and indices.start < part.stop)
                above[slug] = Pieces(_holdings(keys), Running())
        return Unit(
            key=self.key(node.slug),
            nodes=(node.slug,),
            inputs=inputs,
            elements=above,
            indices=indices,
            keep=frozenset([node.slug]),
        )

    def inputs_of(self, slugs: tuple[str, ...]) -> dict[str, Input]:
        """Where the outcomes of nodes are, as wholes."""
        inputs: dict[str, Input] = {}
        for slug in slugs:
            if slug in self.widths:
                inputs[slug] = Pieces(_holdings(self.keys[slug]), Running(counts=Counts(self.widths[slug])))
            elif slug in self.keys:
                inputs[slug] = Held(self.keys[slug][0])
        return inputs

    def _width_of(self, node: FrozenNode) -> int:
        widths: dict[str, int] = {}
        for slug in node.element_upstreams:
            if slug in self.widths:
                widths[slug] = self.widths[slug]
            elif slug in self.program.values:
                widths[slug] = width_of(self.program.values[slug])
            else:
                raise DefinitionError(
                    f"{node.slug} ({node.where}) maps over {slug}, whose width is known only once it has run: such a "
                    "flow is not a single Dask graph; use flow.run(executor=DaskExecutor())"
                )
        for name in node.mapped:
            expression = node.arguments[name]
            if isinstance(expression, Const):
                widths[name] = width_of(expression.value)
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{name} has {width:,}" for name, width in widths.items())
            raise DefinitionError(f"{node.slug} ({node.where}): mapped arguments have different widths: {shown}")
        return next(iter(widths.values()))


def _holdings(keys: Iterable[Key]) -> tuple[Holding, ...]:
    """What chunks hold: nobody has been told what that is."""
    return tuple(Holding(key, None) for key in keys)
