"""The scripted engine, asked over real gRPC."""
