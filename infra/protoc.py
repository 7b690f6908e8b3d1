"""Generates `serving/pb/` from `proto/`, and checks the contract's style and the stubs' freshness.

    python infra/protoc.py            write the stubs
    python infra/protoc.py --check    lint, look for changes that break clients, compare the stubs with what
                                      would be written; write nothing
    python infra/protoc.py --release  make the contract of now the one that later ones must not break

The lint rules are the part of buf's STANDARD and COMMENTS categories that this contract can break; where a
`buf` program is on PATH its own lint and breaking check run too. Stubs keep the descriptor names of `proto/`,
so that a client with stubs of its own can live in the same process; only their Python import path is moved to
`serving.pb`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import google.type
import grpc_tools  # type: ignore[import-untyped]
from breaking import breaches
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "serving" / "pb"
RELEASED = PROTO / "released.binpb"
PACKAGE_PATH = "clnet/geoloc/v1"
PACKAGE = PACKAGE_PATH.replace("/", ".")

WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
GOOGLEAPIS = Path(next(iter(google.type.__path__))).parent.parent

# `from clnet.geoloc.v1 import x_pb2`, `import clnet.geoloc.v1.x_pb2`, and the module name that messages are
# pickled by.
IMPORT_FROM = re.compile(rf"from {re.escape(PACKAGE)} import (\w+_pb2)")
MODULE_NAME = re.compile(rf"{re.escape(PACKAGE)}\.(\w+_pb2)")

# Generators and the options each is given.
OUTPUTS = (("python", ""), ("grpc_python", ""), ("mypy", "quiet:"), ("mypy_grpc", "quiet:"))

OPERATION = ".google.longrunning.Operation"  # what a long job gives (AIP-151)
STUBS_INIT = '"""Generated from `proto/` by `python infra/protoc.py`; never edited by hand."""\n'


class ProtocError(Exception):
    """protoc refused the contract; it has said why on stderr."""


def main() -> int:
    """Generate or check; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="lint and compare, write nothing")
    parser.add_argument("--release", action="store_true", help="write proto/released.binpb, nothing else")
    options = parser.parse_args()
    check = options.check
    with tempfile.TemporaryDirectory() as folder:
        if options.release:
            run_protoc(f"--descriptor_set_out={RELEASED}", "--include_imports")
            return 0
        fresh = generate(Path(folder))
        if not check:
            install(fresh)
            return 0
        files = describe(Path(folder) / "set.bin")
        problems = [*lint(files), *breaches(released(), files), *ask_buf(Path(folder)), *stale(fresh)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def proto_files() -> list[str]:
    """The contract's files as protoc names them."""
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def run_protoc(*options: str) -> None:
    """Run protoc on the whole contract.

    Raises:
        ProtocError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        rename_operations(Path(folder))
        includes = [f"-I{PROTO}", f"-I{WELL_KNOWN}", f"-I{folder}", f"-I{GOOGLEAPIS}"]
        if protoc.main(["protoc", *includes, *options, *proto_files()]) != 0:
            raise ProtocError("protoc failed; see above")


def rename_operations(folder: Path) -> None:
    """Python's package of Google's contracts ships `operations.proto` under another name than its own."""
    to = folder / "google/longrunning"
    to.mkdir(parents=True)
    shutil.copy(GOOGLEAPIS / "google/longrunning/operations_proto.proto", to / "operations.proto")


def generate(folder: Path) -> dict[str, str]:
    """Text of every generated file by its name in `serving/pb`."""
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin=protoc-gen-{kind}={scripts / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")
    ]
    run_protoc(*plugins, *(f"--{kind}_out={option}{folder}" for kind, option in OUTPUTS))
    texts = {path.name: moved(path.read_text()) for path in (folder / PACKAGE_PATH).iterdir()}
    return {"__init__.py": STUBS_INIT} | {name: text for name, text in texts.items() if is_wanted(name, text)}


def moved(text: str) -> str:
    """The stub with its Python import path moved to `serving.pb`; gRPC service paths stay."""
    return MODULE_NAME.sub(r"serving.pb.\1", IMPORT_FROM.sub(r"from serving.pb import \1", text))


def is_wanted(name: str, text: str) -> bool:
    """False for the empty gRPC stubs of files that define no service."""
    return "_pb2_grpc.py" not in name or re.search(r"^class \w+Stub", text, re.MULTILINE) is not None


def install(fresh: dict[str, str]) -> None:
    """Make `serving/pb` hold exactly the fresh stubs."""
    STUBS.mkdir(exist_ok=True)
    for path in [*STUBS.glob("*.py"), *STUBS.glob("*.pyi")]:
        if path.name not in fresh:
            path.unlink()
    for name, text in fresh.items():
        (STUBS / name).write_text(text)


def stale(fresh: dict[str, str]) -> Iterator[str]:
    """One line for each stub that differs from the contract."""
    present = {path.name: path.read_text() for path in [*STUBS.glob("*.py"), *STUBS.glob("*.pyi")]}
    for name in sorted(fresh.keys() | present.keys()):
        if fresh.get(name) != present.get(name):
            yield f"serving/pb/{name}: differs from proto/; run `make proto`"


def describe(path: Path) -> list[FileDescriptorProto]:
    """Descriptors of the contract's files, with their comments."""
    run_protoc(f"--descriptor_set_out={path}", "--include_source_info")
    return list(FileDescriptorSet.FromString(path.read_bytes()).file)


def released() -> list[FileDescriptorProto]:
    """The contract as it was last released."""
    files = FileDescriptorSet.FromString(RELEASED.read_bytes()).file
    return [file for file in files if file.name.startswith(PACKAGE_PATH)]


def lint(files: list[FileDescriptorProto]) -> Iterator[str]:
    """One line for each breach of the style."""
    for file in files:
        for problem in lint_file(file):
            yield f"proto/{file.name}: {problem}"


def lint_file(file: FileDescriptorProto) -> Iterator[str]:
    """File, package and everything defined in it."""
    if file.package != str(Path(file.name).parent).replace("/", "."):
        yield f"package {file.package} does not match the folder"
    if not re.fullmatch(r"[a-z0-9_]+\.proto", Path(file.name).name):
        yield "file name is not lower_snake_case"
    yield from lint_comments(file)
    for enum in file.enum_type:
        yield from lint_enum(enum)
    for message in file.message_type:
        yield from lint_message(message)
    yield from lint_services(file)


def lint_message(message: DescriptorProto) -> Iterator[str]:
    """Names of a message and of what it holds."""
    if not is_pascal(message.name):
        yield f"message {message.name} is not PascalCase"
    for field in message.field:
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name):
            yield f"field {message.name}.{field.name} is not lower_snake_case"
    for enum in message.enum_type:
        yield from lint_enum(enum)
    for nested in message.nested_type:
        yield from lint_message(nested)


def lint_enum(enum: EnumDescriptorProto) -> Iterator[str]:
    """Prefix of the values, and what zero means."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
    if enum.value[0].number != 0 or enum.value[0].name != f"{prefix}_UNSPECIFIED":
        yield f"enum {enum.name} does not start with {prefix}_UNSPECIFIED = 0"
    for value in enum.value:
        if not value.name.startswith(f"{prefix}_"):
            yield f"enum value {value.name} lacks the prefix {prefix}_"


def lint_services(file: FileDescriptorProto) -> Iterator[str]:
    """One service a file, named Service; every RPC with its own request and response."""
    if len(file.service) > 1:
        yield "more than one service"
    for service in file.service:
        if not (is_pascal(service.name) and service.name.endswith("Service")):
            yield f"service {service.name} is not PascalCase with the suffix Service"
        for method in service.method:
            takes = method.input_type == f".{file.package}.{method.name}Request"
            gives = method.output_type in (f".{file.package}.{method.name}Response", OPERATION)
            if not (takes and gives):
                yield f"rpc {method.name} does not take {method.name}Request and give {method.name}Response"


def lint_comments(file: FileDescriptorProto) -> Iterator[str]:
    """Every definition carries a leading comment."""
    commented = {
        tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()
    }
    for path, name in definitions(file):
        if path not in commented:
            yield f"{name} has no comment"


def definitions(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Path (SourceCodeInfo.Location.path in descriptor.proto) and name of everything that is defined."""
    for at, message in enumerate(file.message_type):
        yield from message_definitions((4, at), message)
    for at, enum in enumerate(file.enum_type):
        yield from enum_definitions((5, at), enum)
    for at, service in enumerate(file.service):
        yield (6, at), service.name
        for nth, method in enumerate(service.method):
            yield (6, at, 2, nth), f"{service.name}.{method.name}"


def message_definitions(
    path: tuple[int, ...], message: DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    """A message, its fields, its oneofs that a person wrote, and what is nested in it."""
    yield path, message.name
    synthetic = {field.oneof_index for field in message.field if field.proto3_optional}
    for at, field in enumerate(message.field):
        yield (*path, 2, at), f"{message.name}.{field.name}"
    for at, oneof in enumerate(message.oneof_decl):
        if at not in synthetic:
            yield (*path, 8, at), f"{message.name}.{oneof.name}"
    for at, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from message_definitions((*path, 3, at), nested)
    for at, enum in enumerate(message.enum_type):
        yield from enum_definitions((*path, 4, at), enum)


def enum_definitions(
    path: tuple[int, ...], enum: EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    """An enum and its values."""
    yield path, enum.name
    for at, value in enumerate(enum.value):
        yield (*path, 2, at), value.name


def is_pascal(name: str) -> bool:
    """True for PascalCase."""
    return re.fullmatch(r"([A-Z][a-z0-9]*)+", name) is not None


BUF_WORKSPACE = """\
version: v2
modules:
  - path: proto
    lint: {use: [STANDARD, COMMENTS]}
    breaking: {use: [FILE]}
  - path: googleapis
    lint: {ignore: [googleapis]}
"""


def ask_buf(folder: Path) -> Iterator[str]:
    """What buf itself says, where it is installed (npm package @bufbuild/buf); nothing elsewhere."""
    buf = shutil.which("buf")
    if buf is None:
        return
    workspace = folder / "buf"
    shutil.copytree(PROTO, workspace / "proto")
    for part in ("type", "rpc", "api"):
        shutil.copytree(
            GOOGLEAPIS / "google" / part, workspace / "googleapis/google" / part, ignore=only_protos
        )
    rename_operations(workspace / "googleapis")
    (workspace / "buf.yaml").write_text(BUF_WORKSPACE)
    against = ["breaking", "proto", "--against", str(RELEASED), "--exclude-imports"]
    for command in (["lint"], ["format", "--diff", "--exit-code", "proto"], against):
        done = subprocess.run([buf, *command], cwd=workspace, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield f"buf {command[0]}: {(done.stdout + done.stderr).strip()}"


def only_protos(folder: str, names: list[str]) -> list[str]:
    """What copytree leaves out: everything that is no .proto file."""
    return [name for name in names if not name.endswith(".proto")]


if __name__ == "__main__":
    sys.exit(main())
