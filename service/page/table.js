// Fields for the columns of a table, by name: numbers, and lists of categories.

const OTHER = "\u0000"; // value of the choice for a category that is not in the list

/** One labelled field for each column. */
export function columnFields(columns) {
  return columns.map(({ name, categories, missing }) => {
    const label = Object.assign(document.createElement("label"), { textContent: name });
    const field = document.createElement(categories.length ? "select" : "input");
    field.autocomplete = "off";
    field.ariaLabel = name; // without the choices of a list, which are inside the label
    if (categories.length) field.append(new Option("", ""), ...categories.map((category) => new Option(category, category)), new Option("(another)", OTHER));
    else Object.assign(field, { inputMode: "decimal", placeholder: missing ? "optional" : "" });
    label.append(field);
    return label;
  });
}

/** The values of the fields as `row`, an object by column; or what is `wrong`, and the `field` of it. An empty field is
 * a missing value, but not all of them may be. */
export function columnValues(container, columns) {
  const fields = [...container.querySelectorAll("input, select")];
  const row = Object.create(null); // a column may be called __proto__
  for (const [i, { name, categories }] of columns.entries()) {
    const text = fields[i].value.trim();
    const number = Number(/^[+-]?\d+,\d+$/.test(text) ? text.replace(",", ".") : text);
    if (!categories.length && !Number.isFinite(number)) return { wrong: `${name}: “${text}” is not a number.`, field: fields[i] };
    row[name] = fields[i].value === OTHER ? (categories.includes("another") ? OTHER : "another") : text === "" ? null : categories.length ? fields[i].value : number;
  }
  if (Object.values(row).every((value) => value === null)) return { wrong: "Enter some values; those left empty count as missing.", field: fields[0] };
  return { row };
}
