"""Our descriptions of the engines' messages are the published ones, and the stubs are current."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

ROOT = Path(__file__).parents[2]
MODULES = sorted(f"{path.stem}_pb2" for path in (ROOT / "proto").glob("*.proto"))
# Runs where our own messages are not loaded: protobuf takes each name once per process.
PRINT_PUBLISHED = """
import sys
import smg_grpc_proto
from google.protobuf.descriptor_pb2 import FileDescriptorSet

files = FileDescriptorSet()
for name in sys.argv[1:]:
    file = getattr(smg_grpc_proto, name).DESCRIPTOR
    for each in (file, *file.dependencies):
        files.file.add().ParseFromString(each.serialized_pb)
sys.stdout.buffer.write(files.SerializeToString())
"""

Facts = dict[str, object]


def published() -> FileDescriptorSet:
    names = [name for name in MODULES if name != "common_pb2"]
    run = subprocess.run(
        [sys.executable, "-c", PRINT_PUBLISHED, *names], stdout=subprocess.PIPE, check=True
    )
    return FileDescriptorSet.FromString(run.stdout)


def ours() -> list[FileDescriptorProto]:
    modules = [import_module(f"smg.engines._generated.{name}") for name in MODULES]
    return [FileDescriptorProto.FromString(each.DESCRIPTOR.serialized_pb) for each in modules]


def facts(files: Iterable[FileDescriptorProto]) -> Facts:
    """What must agree on the wire, by full name."""
    found: Facts = {}
    for file in files:
        for message in file.message_type:
            found |= message_facts(f".{file.package}", message)
        for service in file.service:
            for method in service.method:
                found[f"/{file.package}.{service.name}/{method.name}"] = (
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


def message_facts(scope: str, message: DescriptorProto) -> Facts:
    name = f"{scope}.{message.name}"
    found: Facts = {name: "a message"}
    for field in message.field:
        found[f"{name}.{field.name}"] = field_facts(message, field)
    for enum in message.enum_type:
        found[f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}
    for nested in message.nested_type:
        found |= message_facts(name, nested)
    return found


def field_facts(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    return field.number, field.type, field.type_name, field.label, field.proto3_optional, oneof


def test_all_we_describe_is_as_published() -> None:
    theirs = facts(published().file)
    here = facts(ours())
    assert here == {name: theirs.get(name) for name in here}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "common_pb2"])
def test_the_methods_we_call_are_described(module: str) -> None:
    (service,) = import_module(
        f"smg.engines._generated.{module}"
    ).DESCRIPTOR.services_by_name.values()
    assert {"Generate", "Abort", "HealthCheck", "GetModelInfo", "GetServerInfo"} <= set(
        service.methods_by_name
    )


def check(root: Path) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "scripts/generate_protos.py", "--check"],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout


def test_the_committed_stubs_are_current() -> None:
    assert check(ROOT) == (0, "")


def test_stubs_that_are_not_current_are_named(tmp_path: Path) -> None:
    for part in ("proto", "scripts", "smg/engines/_generated"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    proto = tmp_path / "proto/mlx_engine.proto"
    proto.write_text(proto.read_text().replace("cached_tokens = 4", "cached_tokens = 44"))
    (tmp_path / "smg/engines/_generated/left_over_pb2.py").touch()
    code, line = check(tmp_path)
    assert code == 1
    assert "left_over_pb2.py, mlx_engine_pb2.py" in line
