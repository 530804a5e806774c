"""What can be no id, no name and no address is refused as such, wherever it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, ServiceMesh, VirtualClock, in_memory
from orchestrator.errors import QuartermasterError, ValidationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import ServiceDiscovery, ServiceSpec
from orchestrator.runtimes import SimulatedProvisioner, SimulatedRuntime
from tests.engine.builders import SHAPE, job, node

JUNK: list[Any] = [["x"], {"a": 1}, None, 3, b"a", {"a"}, float("nan")]
_Act = Callable[[Any, Any], Any]

_CLUSTER: dict[str, _Act] = {
    "submit_job": lambda c, x: c.submit_job(x),
    "check_job": lambda c, x: c.check_job(x),
    "preempt_job": lambda c, x: c.preempt_job(x, "why"),
    "preempt_job for": lambda c, x: c.preempt_job("a", x),
    "scale_job": lambda c, x: c.scale_job(x, 1),
    "register_node": lambda c, x: c.register_node(x),
    "decommission_node": lambda c, x: c.decommission_node(x),
    "handle_node_failure": lambda c, x: c.handle_node_failure(x),
    "handle_node_recovery": lambda c, x: c.handle_node_recovery(x),
    "discover_service": lambda c, x: c.discover_service(x),
    "route_request": lambda c, x: c.route_request(x, "hello"),
    "get_job_status": lambda c, x: c.get_job_status(x),
}
_MESH: dict[str, _Act] = {
    "add_service": lambda m, x: m.add_service(x),
    "remove_service": lambda m, x: m.remove_service(x),
    "register": lambda m, x: m.register(x, "there"),
    "register at": lambda m, x: m.register("web", x),
    "drain": lambda m, x: m.drain(x, "there"),
    "drain at": lambda m, x: m.drain("web", x),
    "drained": lambda m, x: m.drained(x, "there"),
    "drained at": lambda m, x: m.drained("web", x),
    "deregister": lambda m, x: m.deregister(x, "there"),
    "deregister at": lambda m, x: m.deregister("web", x),
    "spec": lambda m, x: m.spec(x),
    "counts": lambda m, x: m.counts(x),
    "breaker_mode": lambda m, x: m.breaker_mode(x, "there"),
    "breaker_mode at": lambda m, x: m.breaker_mode("web", x),
    "shut_out": lambda m, x: m.shut_out("web", x),
    "let_in": lambda m, x: m.let_in("web", x),
    "discover": lambda m, x: m.discover(x),
    "route": lambda m, x: m.route(x, "hello"),
}
_REGISTER: dict[str, _Act] = {
    "declare": lambda d, x: d.declare(x),
    "forget": lambda d, x: d.forget(x),
    "register": lambda d, x: d.register(x, "there"),
    "register at": lambda d, x: d.register("web", x),
    "set_health": lambda d, x: d.set_health("web", x, True),
    "knows": lambda d, x: d.knows(x, "there"),
    "knows at": lambda d, x: d.knows("web", x),
    "endpoints": lambda d, x: d.endpoints(x),
    "lookup": lambda d, x: d.lookup(x),
}


async def _do(act: _Act, of: Any, junk: Any) -> None:
    done = act(of, junk)
    if inspect.isawaitable(done):
        await done


async def _refused(act: _Act, of: Any, junk: Any) -> None:
    with pytest.raises(ValidationError, match="field"):
        await _do(act, of, junk)


@pytest.mark.parametrize("orders", [False, True])
@pytest.mark.parametrize("what", _CLUSTER)
async def test_an_orchestrator_refuses_what_is_no_id(what: str, orders: bool) -> None:
    clock = VirtualClock()
    cluster = InfrastructureOrchestrator(
        *in_memory(clock),
        clock=clock,
        nodes=[node("n0")],
        shape=SHAPE,
        runtime=SimulatedRuntime(clock),
        provisioner=SimulatedProvisioner(clock, node("more")) if orders else None,
    )
    await cluster.submit_job(job("a", kind=JobKind.SERVICE, name="web"))
    entries = cluster.get_cluster_status()["log_entries"]
    for junk in JUNK:
        await _refused(_CLUSTER[what], cluster, junk)
    assert cluster.get_cluster_status()["log_entries"] == entries


def _mesh() -> ServiceMesh:
    async def answer(address: str, request: Any) -> Any:
        return request

    mesh = ServiceMesh(VirtualClock(), answer)
    mesh.add_service(ServiceSpec("web", 20.0))
    mesh.register("web", "there")
    return mesh


@pytest.mark.parametrize("what", _MESH)
async def test_a_mesh_refuses_what_is_no_name(what: str) -> None:
    mesh = _mesh()
    for junk in JUNK:
        await _refused(_MESH[what], mesh, junk)
    assert (mesh.services, mesh.discover("web")) == (["web"], ["there"])
    assert await mesh.route("web", "hello") == "hello"


@pytest.mark.parametrize("what", _REGISTER)
async def test_a_register_refuses_what_is_no_name(what: str) -> None:
    register = ServiceDiscovery()
    register.register("web", "there")
    for junk in JUNK:
        await _refused(_REGISTER[what], register, junk)
    assert (register.services, register.lookup("web")) == (["web"], ["there"])


@pytest.mark.parametrize("junk", ["", "x", "\ud800"])
async def test_an_id_that_nobody_has_is_unknown(junk: str) -> None:
    clock = VirtualClock()
    cluster = InfrastructureOrchestrator(*in_memory(clock), clock=clock, nodes=[node("n0")])
    for what in ("get_job_status", "decommission_node", "discover_service", "route_request"):
        with pytest.raises(QuartermasterError, match=r"no |unknown|UTF-8"):
            await _do(_CLUSTER[what], cluster, junk)
