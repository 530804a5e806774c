"""Put a server together on a folder, run it, and take it apart again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import uvloop

from agents.serve.settings import ClusterFile, ServeSettings
from orchestrator.autoscaler.services import RateForecasting
from orchestrator.clock import WallClock
from orchestrator.deployment import DecisionLog, PolicyDeployment
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import FolderCheckpoints, HashShardManager, HeartbeatFaultDetector
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.live.cycle import load_kernels
from orchestrator.mesh.mesh import load_request_path
from orchestrator.mesh.proxy import MeshProxy
from orchestrator.messages import Entry
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import ConsensusEngine, Policy
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.scheduling.rules import rule_named
from orchestrator.semantics import Semantics
from orchestrator.server.app import create_app
from orchestrator.server.exposition import Exposition
from orchestrator.server.guard.audit import log_to
from orchestrator.server.guard.files import Endpoint, FolderLock, read_endpoint, write_private
from orchestrator.server.guard.listen import HttpServer, bind
from orchestrator.server.guard.repeats import Repeats
from orchestrator.server.guard.tokens import Role, TokenStore
from orchestrator.server.parts import Parts, Streams
from orchestrator.workloads.serving import InferenceJobManager

if TYPE_CHECKING:
    from agents.deploy import BundlePolicy

__all__ = ["Serving", "serve", "serving"]


_log = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_RETRIES = logging.getLogger("orchestrator.live.retry")

Say = Callable[[str], None]


class _Line(msgspec.Struct, frozen=True):
    """Where agents connect, and what they have to know: kept for those that outlive a server."""

    address: str
    token: str


@dataclass
class Serving:
    """A server that runs.

    Parameters
    ----------
    endpoint : Endpoint
        Where it answers.
    orchestrator : InfrastructureOrchestrator
    parts : Parts
        Of its application.
    agents : LocalAgents
        Those that it has started.
    new_tokens : dict of str to str
        Tokens that were made now, by name.
    """

    endpoint: Endpoint
    orchestrator: InfrastructureOrchestrator
    parts: Parts
    agents: LocalAgents
    new_tokens: dict[str, str]


def serve(settings: ServeSettings, say: Say = print) -> None:
    """Run a server until it is told to end (SIGTERM, SIGINT).

    Parameters
    ----------
    settings : ServeSettings
    say : callable
        Told what people should know: where it answers, and new tokens, once.

    Raises
    ------
    ConfigurationError
        If another server runs on the folder, a port is in use, or the options make no sense.
    """
    uvloop.run(_serve(settings, say))


async def _serve(settings: ServeSettings, say: Say) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serving(settings) as running:
        for name, text in running.new_tokens.items():
            say(f"token of {name}: {text}")
        say(f"serving on {running.endpoint.url}, folder {settings.dir}")
        await ended.wait()
        say("ending")


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[Serving]:
    """A server that runs as long as the context is open; for programs that contain one.

    Parameters
    ----------
    settings : ServeSettings
    """
    folder = settings.dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        lock = FolderLock(folder / "lock")
        stack.callback(lock.release)
        for name in (None, "uvicorn.error", "httpx"):  # levels are the process's, not the server's
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
        for handler in log_to(
            folder / "server.log",
            logging.getLevelNamesMapping()[settings.log_level.upper()],
            json_console=settings.json_logs,
        ):
            stack.callback(handler.close)
            stack.callback(logging.getLogger().removeHandler, handler)
        stack.callback(_RETRIES.setLevel, _RETRIES.level)
        if settings.host not in _LOOPBACK:
            problem = f"host {settings.host} is reached from elsewhere, and tokens go unencrypted"
            _log.warning("%s; have a proxy with TLS stand before it", problem)
        if settings.local_nodes:
            problem = "workers of local agents run as the server's user and can read its tokens"
            remedy = "where roles have to hold, use 'agents: 0' and agents of another user"
            _log.warning("%s; %s", problem, remedy)
        yield await _Making(settings, stack).whole()


class _TimedLog(SQLiteLog):
    """A log that tells how long its disk takes."""

    observe: Callable[[float], None] = staticmethod(lambda seconds: None)

    async def append(self, entry: Entry) -> int:
        """Append an entry; its index, once it is on disk."""
        begun_s = time.perf_counter()
        index = await super().append(entry)
        self.observe(time.perf_counter() - begun_s)
        return index


def _learned(bundle: str) -> BundlePolicy:
    """A trained policy; what it takes is loaded when somebody wants one."""
    from agents.deploy import BundlePolicy

    return BundlePolicy.load(bundle)


class _Making:
    """Makes a server part by part; what is made is taken apart by the stack, in reverse."""

    def __init__(self, settings: ServeSettings, stack: AsyncExitStack) -> None:
        self.settings, self.stack, self.folder = settings, stack, settings.dir
        self.clock = WallClock()
        self.cluster = (
            ClusterFile() if settings.cluster is None else ClusterFile.read(settings.cluster)
        )
        self.detector = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.before = read_endpoint(self.folder / "endpoint.json")
        self.ready = "it is starting"
        self.observe: Callable[[float], None] = lambda seconds: None

    async def whole(self) -> Serving:
        """All of it; it is ready to answer."""
        # The port first: nothing is begun if it is in use.
        bound = self._bound(self.settings.port, self.before.url if self.before else "")
        self.stack.callback(bound.close)
        deployment = self._deployment()
        await asyncio.to_thread(load_kernels, deployment)
        await load_request_path(self.clock)
        tokens = TokenStore(self.folder / "tokens.json", self.clock)
        orchestrator, agents = await self._orchestrator(deployment)
        await self._put_in_charge(deployment, orchestrator)
        repeats = Repeats(self.folder / "requests.jsonl")
        self.stack.callback(repeats.close)
        limits = self.settings.limits
        streams = Streams(limits.streams, tokens)
        proxy = await self._proxy(orchestrator, tokens)
        services = self._review(orchestrator)
        parts = Parts(
            orchestrator,
            tokens,
            repeats,
            streams,
            limits=limits,
            load_policy=_learned,
            deployment=deployment,
            proxy=proxy,
            services=services,
            ready=lambda: self.ready,
        )
        metrics = Exposition(
            orchestrator, agents=lambda: len(agents.pids), streams=lambda: streams.open
        )
        self.observe = metrics.append.observe
        self.stack.callback(metrics.start().cancel)
        http = HttpServer(create_app(parts, metrics=metrics), bound, limits)
        await http.open()
        self.stack.push_async_callback(http.close)
        self.stack.callback(streams.close)
        fresh = self._fresh(tokens)  # so late: of a start that fails nobody is told any
        endpoint = self._endpoint(http.port, proxy.url, fresh)
        endpoint.write(self.folder / "endpoint.json")
        self.ready = ""
        self.stack.callback(self._leave)
        # What is there now stays: the collector need not look through it while requests wait.
        gc.collect()
        gc.freeze()
        self.stack.callback(gc.unfreeze)
        return Serving(endpoint, orchestrator, parts, agents, fresh)

    def _leave(self) -> None:
        """Say that it is going down; whoever finds that out for itself need not warn of it."""
        self.ready = "it is going down"
        _RETRIES.setLevel(logging.ERROR)

    def _bound(self, port: int, before: str) -> socket.socket:
        """A socket on a port; if none was asked for, on the one that was there before."""
        host = self.settings.host
        last = before.rpartition(":")[2]
        if port == 0 and last.isdigit():
            with contextlib.suppress(ConfigurationError):
                return bind(host, int(last))
        return bind(host, port)

    def _deployment(self) -> PolicyDeployment:
        """Who decides: a rule, or the one that decided before, and policies beside it."""
        log = DecisionLog(self.folder / "decisions" / "decisions.sqlite")
        self.stack.callback(log.close)
        rule = rule_named(self.settings.rule) if self.settings.rule else None
        deployment = PolicyDeployment(
            rule, _learned, guards=self.settings.guards, log=log, clock=self.clock
        )
        self.stack.callback(deployment.close)
        return deployment

    async def _put_in_charge(
        self, deployment: PolicyDeployment, orchestrator: InfrastructureOrchestrator
    ) -> None:
        """Have decide whom the settings name, or whoever did before."""
        await deployment.attach(orchestrator)
        bundle = self.settings.bundle
        if bundle and (deployment.mode.value, deployment.bundle) != ("active", bundle):
            await deployment.activate(bundle)
        elif self.settings.rule and deployment.mode.value != "fallback":
            await deployment.fall_back(f"started with the rule {self.settings.rule}")

    async def _semantics(self) -> Semantics | None:
        """The rules of the game that the settings' policy was trained with; None: the log's."""
        if not self.settings.bundle:
            return None
        policy = await asyncio.to_thread(_learned, self.settings.bundle)
        return policy.config if policy.config.window > 0 else None  # one that leaves jobs to a rule

    def _fresh(self, store: TokenStore) -> dict[str, str]:
        """Tokens that are made now, by name: all at first, and the operator's if it is lost."""
        if len(store) == 0:
            return {role.name.lower(): store.create(role.name.lower(), role) for role in Role}
        known = store.principal(self.before.token) if self.before is not None else None
        if known is None or known.role < Role.OPERATOR:
            # The file is gone, and nobody can be told the old one.
            return {"operator": store.renew("operator", Role.OPERATOR)}
        return {}

    def _review(self, orchestrator: InfrastructureOrchestrator) -> InferenceJobManager:
        """Have the size of services, and of a fleet that can be changed, reviewed for ever."""
        manager = InferenceJobManager(orchestrator)
        orchestrator.manage(manager)

        async def review() -> None:
            while True:
                await asyncio.sleep(self.settings.review_s)
                try:
                    await orchestrator.auto_scale_cluster()
                except Exception:
                    _log.exception("the size of the cluster could not be reviewed")

        self.stack.callback(asyncio.create_task(review()).cancel)
        return manager

    async def _proxy(
        self, orchestrator: InfrastructureOrchestrator, tokens: TokenStore
    ) -> MeshProxy:
        """The services' port, open: where it was before if that is free and none was asked for."""

        def authorize(token: str) -> str | None:
            who = tokens.principal(token)
            if who is not None and who.role < Role.SUBMITTER:
                raise PermissionError(f"token '{who.name}' is a viewer's; use a submitter's")
            return None if who is None else who.name

        wanted, before = self.settings.mesh_port, self.before.mesh_url if self.before else ""
        last = before.rpartition(":")[2]
        ports = [int(last), 0] if wanted == 0 and last.isdigit() else [wanted]
        for port in ports:
            proxy = MeshProxy(
                orchestrator.route_request, authorize, host=self.settings.host, port=port
            )
            try:
                await proxy.open()
            except ConfigurationError:
                if port == ports[-1]:
                    raise
                continue
            self.stack.push_async_callback(proxy.close)
            return proxy
        raise AssertionError("there is always a port to try")

    def _endpoint(self, port: int, mesh_url: str, fresh: dict[str, str]) -> Endpoint:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        token = fresh.get("operator") or (self.before.token if self.before is not None else "")
        return Endpoint(f"http://{host}:{port}", token, mesh_url, os.getpid())

    async def _log(self) -> ConsensusEngine:
        """The log: a file in the folder, or what etcd keeps."""
        if self.settings.etcd:
            from orchestrator.foundations.etcd import EtcdLog  # of an extra, which may be missing

            replicated = await EtcdLog.open(self.settings.etcd.split(","))
            self.stack.push_async_callback(replicated.close)
            return replicated
        log = _TimedLog(self.folder / "log.sqlite")
        self.stack.callback(log.close)
        log.observe = lambda seconds: self.observe(seconds)
        return log

    async def _orchestrator(self, policy: Policy) -> tuple[InfrastructureOrchestrator, LocalAgents]:
        """The orchestrator on the log, with its agents, started."""
        log = await self._log()
        runtime = await self._runtime()
        local = self.settings.local_nodes
        orchestrator = InfrastructureOrchestrator(
            log,
            HashShardManager(),
            self.detector,
            FolderCheckpoints(self.folder / "checkpoints"),
            clock=self.clock,
            runtime=runtime,
            policy=policy,
            semantics=await self._semantics(),
            nodes=[*local, *self.cluster.nodes],
            tenants=self.cluster.tenants,
            schedule_on_events=True,
            forecasting=RateForecasting(self.settings.review_s),
        )
        names = [node.node_id for node in local]
        agents = LocalAgents(runtime, names, self.folder / "agents", beat_s=self.settings.beat_s)
        if not self.settings.keep_agents:
            self.stack.push_async_callback(agents.stop)
        # Before that: what agents say of their end is for the next server to find out.
        self.stack.push_async_callback(runtime.close)
        await agents.start()
        await orchestrator.start()
        self.stack.push_async_callback(orchestrator.stop)
        for rules in self.cluster.services:
            orchestrator.mesh.add_service(rules)
        return orchestrator, agents

    async def _runtime(self) -> ProcessRuntime:
        """The runtime, where agents that outlived the server before look for it."""
        path = self.folder / "agents.json"
        line = None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            line = msgspec.json.decode(path.read_bytes(), type=_Line)
        runtime = await self._opened(line)
        if line is None or line.address != runtime.address:
            known = msgspec.json.encode(_Line(runtime.address, runtime.token))
            write_private(path, known)
        return runtime

    async def _opened(self, line: _Line | None) -> ProcessRuntime:
        token = secrets.token_urlsafe(24) if line is None else line.token
        host = self.settings.host
        last = "" if line is None else line.address.rpartition(":")[2]
        # The port that agents know; the host is the one that is asked for now, not that of then.
        for address in (f"{host}:{last}", f"{host}:0") if last.isdigit() else (f"{host}:0",):
            runtime = ProcessRuntime(
                self.clock,
                self.detector,
                address=address,
                token=token,
                lease_s=self.settings.lease_s,
                grace_s=self.settings.grace_s,
                checkpoints=self.folder / "checkpoints",
            )
            try:
                await runtime.open()
            except OSError as error:
                _log.warning("agents' line %s: %s; another one is opened", address, error)
                continue
            return runtime
        problem = f"serve: no port of {self.settings.host} is free for agents"
        raise ConfigurationError(f"{problem}; give another 'host'")
