"""Enough of JSON Schema for our own, and stricter: a key that the schema does not name is a mistake."""

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
         "null": type(None)}


def is_type(value, name):
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def errors(value, schema, root=None, path="$"):
    root = root or schema
    if "$ref" in schema:
        yield from errors(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, path)
        return
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(is_type(value, name) for name in types):
        yield f"{path}: {str(value)[:60]} is no {' or '.join(types)}"
        return
    if isinstance(value, dict):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties", False)
        for key in schema.get("required", []):
            if key not in value:
                yield f"{path}: no {key}"
        for key, item in value.items():
            if key in known:
                yield from errors(item, known[key], root, f"{path}.{key}")
            elif more is False:
                yield f"{path}: unknown {key}"
            elif more is not True:
                yield from errors(item, more, root, f"{path}.{key}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: {len(value)} items"
        for i, item in enumerate(value):
            yield from errors(item, schema.get("items", {}), root, f"{path}[{i}]")
