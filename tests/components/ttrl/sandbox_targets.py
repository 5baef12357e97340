"""What the sandbox's children are asked to do; importable by name in the child."""

import os
import subprocess
import time

import numpy as np

from components.shared.runtime.errors import InputError


def double(request):
    return {"n": request["n"] * 2}, [np.arange(12, dtype=np.uint8).reshape(2, 2, 3)]


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
