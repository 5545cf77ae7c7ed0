"""Calls /test.Echo/Who of each target, over and over, and keeps count in a file; serves CSDS of itself.

The file is one JSON object, replaced at once: for each target the calls that went well ("ok"), those that did not
("failed"), the last error in words, and how many calls each server answered.
"""

import argparse
import json
import os
import threading
import time
from concurrent import futures

import grpc
import grpc.experimental
import grpc_csds


class Counts:
    def __init__(self, targets):
        self.lock = threading.Lock()
        self.targets = {target: {"ok": 0, "failed": 0, "error": "", "servers": {}} for target in targets}

    def answered(self, target, server):
        with self.lock:
            counts = self.targets[target]
            counts["ok"] += 1
            counts["servers"][server] = counts["servers"].get(server, 0) + 1

    def failed(self, target, error):
        with self.lock:
            counts = self.targets[target]
            counts["failed"] += 1
            counts["error"] = error

    def write(self, path):
        with self.lock:
            text = json.dumps(self.targets)
        with open(path + ".new", "w") as file:
            file.write(text)
        os.replace(path + ".new", path)


def call(target, counts, given, credentials):
    channel = grpc.secure_channel(target, credentials)
    who = channel.unary_unary("/test.Echo/Who")
    while True:
        try:
            server = who(b"", timeout=given.deadline)
            counts.answered(target, server.decode())
        except grpc.RpcError as error:
            counts.failed(target, f"{error.code().name}: {error.details()}")
        time.sleep(given.pause)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--csds", required=True, help="IP:port where this process tells what it has")
    arguments.add_argument("--counts", required=True, help="the file")
    arguments.add_argument("--deadline", type=float, default=20, help="seconds that a call may take")
    arguments.add_argument("--pause", type=float, default=0.005, help="seconds between two calls of a target")
    arguments.add_argument("target", nargs="+")
    given = arguments.parse_args()

    status = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    grpc_csds.add_csds_servicer(status)
    status.add_insecure_port(given.csds)
    status.start()

    # Of xDS where it says so, else without TLS.
    credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
    counts = Counts(given.target)
    for target in given.target:
        threading.Thread(target=call, args=(target, counts, given, credentials), daemon=True).start()
    while True:
        counts.write(given.counts)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
