"""`python -m components.ttrl --model DIR --state DIR`: the service in the foreground, until SIGTERM or Ctrl-C.

Guarantees: the port is bound before anything else happens, so a taken port ends the process with one clear line and
exit code 5; SIGTERM lets requests at work finish, closes the buffer and ends with 0. Imports stay light here: the
decoder's children import this module's parent package again.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ConfigError, EnvironmentFault, PixelisError
from components.shared.runtime.logs import configure_logging
from components.ttrl.config import TtrlConfig
from components.ttrl.control import default_state_dir, remove_record, write_record
from components.ttrl.security import Gatekeeper

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run the service; returns the process's exit code."""
    options = _parser().parse_args(argv)
    configure_logging(trace="-", component="ttrl")
    try:
        return serve(_config(options), options.model, options.state)
    except PixelisError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def serve(config: TtrlConfig, model: Path | None, state: Path | None) -> int:
    """Bind, start the service and answer until told to stop."""
    gatekeeper = Gatekeeper.load(config.keys_file, config.host)
    listener = bind(config.host, config.port)
    import uvicorn

    from components.ttrl.api import create_app
    from components.ttrl.service import Service

    state = state or default_state_dir(config)
    service = Service(config, model, state)
    port = listener.getsockname()[1]
    if gatekeeper.is_open:
        log.warning("no keys_file: the service is open to every process of this machine (loopback only)")
    stopping = Stopping()
    try:
        service.start()
        write_record(state, host=config.host, port=port, model=model)
        log.info("listening on http://%s:%d, state in %s", config.host, port, state)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service, gatekeeper),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_keep_alive=10,
                timeout_graceful_shutdown=20,
                limit_concurrency=20 * config.concurrency + 50,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        stopping.server = server
        server.should_exit = stopping.is_set()
        server.run(sockets=[listener])
    finally:
        remove_record(state)
        service.close()
        listener.close()
    log.info("stopped")
    return 0


class Stopping:
    """What SIGTERM and Ctrl-C do, from the first moment on.

    uvicorn raises a signal again once it has shut down: without a handler of ours nothing after it would run.
    """

    def __init__(self) -> None:
        self.server: Any = None
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        if self.server is not None:
            self.server.should_exit = True

    def is_set(self) -> bool:
        """Whether the process was asked to stop."""
        return self._asked


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        EnvironmentFault: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise EnvironmentFault(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}), so the service was not started.",
            remedy="Stop what listens there (`pixelis ttrl stop`), or set `ttrl.port` (0 takes a free one).",
        ) from None
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.ttrl", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="promoted model folder; without one the service answers 503")
    parser.add_argument("--state", type=Path, help="folder of experiences and adapters (default: see ttrl.state_dir)")
    parser.add_argument("--config", type=Path, help="the ttrl section as JSON")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, may be repeated")
    return parser


def _config(options: argparse.Namespace) -> TtrlConfig:
    import json

    values = read_json(options.config) if options.config else {}
    if not isinstance(values, dict):
        raise ConfigError(f"--config {options.config} is not a JSON object; nothing was started.")
    for text in options.set:
        key, found, value = text.partition("=")
        if not found:
            raise ConfigError(f"--set {text!r} is not KEY=VALUE; nothing was started.")
        values[key] = value
    for key in ("host", "port"):
        if getattr(options, key) is not None:
            values[key] = getattr(options, key)
    return TtrlConfig.parse(json.dumps(values), name="ttrl")


if __name__ == "__main__":
    sys.exit(main())
