"""Finds changes of the contract that break clients, against the contract as it was last released.

The released contract is `proto/released.binpb`, a FileDescriptorSet (buf reads it too). The rules are the
part of buf's FILE category that matters for clients with generated stubs or JSON: nothing that they use may
vanish, change its type, its number or its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

Named = TypeVar("Named", FileDescriptorProto, DescriptorProto, EnumDescriptorProto, ServiceDescriptorProto)


def breaches(old: Iterable[FileDescriptorProto], new: Iterable[FileDescriptorProto]) -> Iterator[str]:
    """One line for each breach."""
    files = by_name(new)
    for before in old:
        after = files.get(before.name)
        if after is None:
            yield f"proto/{before.name}: is gone"
            continue
        for problem in breaches_in_file(before, after):
            yield f"proto/{before.name}: {problem}"


def breaches_in_file(old: FileDescriptorProto, new: FileDescriptorProto) -> Iterator[str]:
    """Package, messages, enums and services."""
    if old.package != new.package:
        yield f"package {old.package} became {new.package}"
    yield from breaches_in_messages(old.message_type, new.message_type)
    yield from breaches_in_enums(old.enum_type, new.enum_type)
    services = by_name(new.service)
    for service in old.service:
        if service.name not in services:
            yield f"service {service.name} is gone"
        else:
            yield from breaches_in_service(service, services[service.name])


def breaches_in_messages(old: Iterable[DescriptorProto], new: Iterable[DescriptorProto]) -> Iterator[str]:
    """Messages, and what is nested in them."""
    messages = by_name(new)
    for before in old:
        after = messages.get(before.name)
        if after is None:
            yield f"message {before.name} is gone"
            continue
        yield from breaches_in_fields(before, after)
        yield from breaches_in_messages(before.nested_type, after.nested_type)
        yield from breaches_in_enums(before.enum_type, after.enum_type)


def breaches_in_fields(old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    """A field is its number; its name, type, cardinality and oneof stay. What is reserved may go."""
    fields = {field.number: field for field in new.field}
    reserved = {number for span in new.reserved_range for number in range(span.start, span.end)}
    for before in old.field:
        after = fields.get(before.number)
        if after is None:
            if before.number not in reserved or before.name not in new.reserved_name:
                yield f"field {old.name}.{before.name} is gone; reserve its name and number {before.number}"
        elif shape_of(old, before) != shape_of(new, after):
            yield f"field {old.name}.{before.name} ({before.number}) changed"


def breaches_in_enums(
    old: Iterable[EnumDescriptorProto], new: Iterable[EnumDescriptorProto]
) -> Iterator[str]:
    """Values keep number and name."""
    enums = by_name(new)
    for before in old:
        if before.name not in enums:
            yield f"enum {before.name} is gone"
            continue
        values = {value.number: value.name for value in enums[before.name].value}
        for value in before.value:
            if values.get(value.number) != value.name:
                yield f"enum value {value.name} ({value.number}) is gone or changed"


def breaches_in_service(old: ServiceDescriptorProto, new: ServiceDescriptorProto) -> Iterator[str]:
    """Methods keep types and streaming."""
    methods = {method.name: method for method in new.method}
    for before in old.method:
        after = methods.get(before.name)
        if after is None:
            yield f"rpc {old.name}.{before.name} is gone"
        elif (
            (before.input_type, before.output_type) != (after.input_type, after.output_type)
            or before.client_streaming != after.client_streaming
            or before.server_streaming != after.server_streaming
        ):
            yield f"rpc {old.name}.{before.name} changed"


def shape_of(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    """What of a field clients rely on."""
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    return field.name, field.type, field.type_name, field.label, field.proto3_optional, oneof


def by_name(items: Iterable[Named]) -> Mapping[str, Named]:
    """The items by their names."""
    return {item.name: item for item in items}
