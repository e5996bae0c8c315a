// Elements, made and kept. Knows: how data becomes text and attributes, never markup. Does not know: what is shown.

const SVG = "http://www.w3.org/2000/svg";

/** The element of the page with this id. */
export function at(id) {
  return document.getElementById(id);
}

/** A new element. `attributes` are set as they are, `children` are elements or texts; null is left out. */
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Set a text only where it differs, so that selections and screen readers are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show an element, or do not. */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/**
 * One child of `parent` for each item, in the items' order. A child stays for as long as its key does: focus and
 * scroll positions survive. `create(item)` gives an element, `update(element, item)` fills it.
 */
export function keep(parent, items, keyOf, create, update) {
  const known = (parent.kept ??= new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, element] of known) { // first, so that nobody is moved who could stay
    if (wanted.has(key)) continue;
    element.remove();
    known.delete(key);
  }
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let element = known.get(key);
    if (element === undefined) known.set(key, (element = create(item)));
    update(element, item);
    const place = before === null ? parent.firstChild : before.nextSibling;
    if (place !== element) parent.insertBefore(element, place);
    before = element;
  }
}

/** Fill a <select> with names; the choice stays while its name does, then `preferred` or the first is chosen. */
export function choices(select, names, preferred = null) {
  const present = Array.from(select.options, (option) => option.value);
  if (present.length === names.length && present.every((name, i) => name === names[i])) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  select.value = [chosen, preferred, names[0]].find((name) => names.includes(name)) ?? "";
}
