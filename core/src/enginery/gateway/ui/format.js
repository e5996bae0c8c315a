// Numbers as people read them. Pure.

/** Seconds: "12 ms", "3.4 s", "2 min 5 s", "3 h 20 min"; "–" where there is none. */
export function seconds(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value < 0.9995) return `${Math.max(0, Math.round(value * 1000))} ms`;
  if (value < 59.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Bytes: "512 B", "1.5 GiB". */
export function bytes(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? size : size.toFixed(1)} ${units[unit]}`;
}

/** Tokens in a second. */
export function rate(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** Chunks in a second: "48 chunks/s". */
export function pace(value) {
  return typeof value === "number" ? `${rate(value)} chunks/s` : "–";
}

/** A whole number, or "–". */
export function count(value) {
  return typeof value === "number" ? value.toLocaleString("en") : "–";
}

/** The time of day of seconds since the epoch. */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** A state's word: "going_to_sleep" becomes "going to sleep". */
export function word(state) {
  return String(state).replaceAll("_", " ");
}
