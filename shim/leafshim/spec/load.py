"""From the bytes of a document to its checked values."""

import json

from leafshim.errors import InputError
from leafshim.spec import rules
from leafshim.spec.fields import Fields, relative
from leafshim.spec.linux import linux, resources
from leafshim.spec.model import Mount, Process, Resources, Root, Spec
from leafshim.spec.process import process


def load(document: bytes) -> Spec:
    """A whole config.json, as JSON in UTF-8. Raises InputError that names the offending field by its path."""
    fields = Fields(_parse(document), "")
    spec = Spec(
        oci_version=fields.string("ociVersion"),
        process=process(fields.object("process")),
        root=_root(fields.object("root")) if "root" in fields else None,
        hostname=fields.string("hostname", ""),
        domainname=fields.string("domainname", ""),
        mounts=tuple(_mount(item) for item in fields.objects("mounts")),
        annotations=fields.string_map("annotations"),
        linux=linux(fields.object("linux", {})),
    )
    if not spec.oci_version.startswith("1."):
        raise InputError(f"ociVersion: must be 1.x, not {spec.oci_version}")
    fields.end()
    rules.check(spec)
    return spec


def load_process(document: bytes) -> Process:
    """A `process` object alone, as an exec request carries it. Raises InputError as `load` does.

    What it means for a given container (ids that its user namespace maps, say) is checked by `rules.check_process`.
    """
    return process(Fields(_parse(document), "process"))


def load_resources(document: bytes) -> Resources:
    """A `linux.resources` object alone, as an update carries it. Raises InputError as `load` does."""
    return resources(Fields(_parse(document), "linux.resources"))


def _parse(document: bytes) -> object:
    try:
        value: object = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the document is not JSON: {error}") from None
    return value


def _root(fields: Fields) -> Root:
    root = Root(path=fields.string("path"), readonly=fields.boolean("readonly"))
    if not root.path:
        raise InputError(f"{fields.at('path')}: must not be empty")
    fields.end()
    return root


def _mount(fields: Fields) -> Mount:
    mount = Mount(
        destination=fields.absolute("destination"),
        type=fields.string("type", ""),
        source=fields.string("source", ""),
        options=fields.strings("options"),
    )
    # An option makes it a bind mount, whatever the type says (engines write "bind", "none" or nothing).
    if mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options:
        if not mount.source.startswith("/"):
            raise relative(fields.at("source"))
        mount = mount._replace(type="bind")
    if not mount.type:
        raise InputError(f"{fields.at('type')}: is required")
    if not mount.destination.strip("/"):
        raise InputError(f"{fields.at('destination')}: must be below the root")
    fields.end()
    return mount
