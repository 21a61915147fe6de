// What a JSON schema, as pydantic writes it, asks of a form. Pure: it knows no page.

/** The schema that `schema` refers to, with what stands beside the reference. */
export function resolved(schema, root) {
  let found = schema;
  while (found.$ref) {
    const target = found.$ref
      .slice(2)
      .split("/")
      .reduce((at, part) => at[part.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    const { $ref, ...beside } = found;
    found = { ...target, ...beside };
  }
  if (found.allOf?.length === 1) {
    const { allOf, ...beside } = found;
    return { ...resolved(allOf[0], root), ...beside };
  }
  return found;
}

/**
 * A field's kind and what is left of its schema: `choice` (one of several schemas, told apart by the property
 * `tag` where there is one), `enum`, `boolean`, `number`, `text`, `list`, `map`, `object`, `const` or `json`.
 */
export function analysed(given, root) {
  let schema = resolved(given, root);
  let nullable = false;
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches) {
    const others = branches.map((one) => resolved(one, root)).filter((one) => one.type !== "null");
    nullable = others.length < branches.length;
    const { anyOf, oneOf, ...beside } = schema;
    if (others.length === 1) {
      const inner = analysed(others[0], root);
      return { ...inner, nullable: nullable || inner.nullable, schema: { ...inner.schema, ...beside } };
    }
    const tag = schema.discriminator?.propertyName ?? null;
    return { kind: "choice", nullable, tag, branches: others, schema: beside };
  }
  return { kind: kindOf(schema), nullable, schema };
}

function kindOf(schema) {
  if ("const" in schema) return "const";
  if (schema.enum) return "enum";
  switch (schema.type) {
    case "boolean":
      return "boolean";
    case "integer":
    case "number":
      return "number";
    case "string":
      return "text";
    case "array":
      return "list";
    case "object":
      if (schema.properties) return "object";
      return typeof schema.additionalProperties === "object" ? "map" : "json";
    default:
      return "json";
  }
}

/** What a number may be, in words. */
export function bounds(schema) {
  const words = [];
  if ("exclusiveMinimum" in schema) words.push(`> ${schema.exclusiveMinimum}`);
  if ("minimum" in schema) words.push(`≥ ${schema.minimum}`);
  if ("exclusiveMaximum" in schema) words.push(`< ${schema.exclusiveMaximum}`);
  if ("maximum" in schema) words.push(`≤ ${schema.maximum}`);
  return words.join(", ");
}

/** Whether a number's bounds are so near to each other that a slider can reach all it may be. */
export function slides(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  return schema.type === "number" && low !== undefined && high !== undefined && high - low <= 1;
}

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
