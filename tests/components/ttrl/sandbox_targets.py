"""What the sandbox's children are asked to do; importable by name in the child."""

import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np

from components.shared.runtime.errors import InputError


def double(request):
    return {"n": request["n"] * 2}, [np.arange(12, dtype=np.uint8).reshape(2, 2, 3)]


def many(request):
    return {"num": request["num"]}, [np.full(request["bytes"], n, np.uint8) for n in range(request["num"])]


def hang(request):
    subprocess.Popen(["sleep", "321.5"])
    time.sleep(60)


def spin(request):
    while True:
        pass


def die(request):
    os.kill(os.getpid(), 11)


def eat(request):
    return {}, [np.ones(request["bytes"], np.uint8)]


def refuse(request):
    raise InputError("no thanks.", remedy="Ask nicely.")


def break_down(request):
    raise RuntimeError("secret words of the user")


def write(request):
    with open(request["path"], "w") as file:
        file.write("x" * (1 << 17))
    return {}, []


def stop_in_the_middle(request):
    """Announces a message, sends some of it and stops like a process that a debugger holds."""
    os.write(sys._getframe(1).f_locals["connection"].fileno(), struct.pack("<I", 100) + b"half")
    os.kill(os.getpid(), signal.SIGSTOP)


def trickle(request):
    """Announces a message and sends a byte of it now and then."""
    pipe = sys._getframe(1).f_locals["connection"].fileno()
    os.write(pipe, struct.pack("<I", 100_000))
    while True:
        os.write(pipe, b"x")
        time.sleep(0.01)
