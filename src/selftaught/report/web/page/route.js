// Links: everything that is shown is named by the part of the address behind #, as #problem?run=a&id=3.

export const VIEWS = [
  ["runs", "Runs"],
  ["problems", "Problems"],
  ["samples", "Samples"],
];

export function routeOf(hash) {
  const [view, query] = hash.replace(/^#/, "").split("?", 2);
  const known = ["runs", "problems", "samples", "problem"].includes(view);
  return { view: known ? view : "runs", values: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

// The address of a view with values; what is empty is left out.
export function linkTo(view, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return query ? `#${view}?${query}` : `#${view}`;
}

export function go(view, values, { replace = false } = {}) {
  const link = linkTo(view, values);
  if (link === location.hash) return;
  if (replace) {
    history.replaceState(null, "", link);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = link;
  }
}
