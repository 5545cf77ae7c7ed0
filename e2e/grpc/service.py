"""A gRPC service without generated code: /test.Echo/Who answers with the server's name, /test.Echo/Watch goes on
answering for as long as the caller listens."""

import argparse
import time
from concurrent import futures

import grpc


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--address", required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--cert")
    arguments.add_argument("--key")
    given = arguments.parse_args()
    name = given.name.encode()

    def watch(request, context):
        while context.is_active():
            yield name
            time.sleep(0.05)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    handlers = {
        "Who": grpc.unary_unary_rpc_method_handler(lambda request, context: name),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    if given.cert:
        with open(given.cert, "rb") as cert, open(given.key, "rb") as key:
            server.add_secure_port(given.address, grpc.ssl_server_credentials([(key.read(), cert.read())]))
    else:
        server.add_insecure_port(given.address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
