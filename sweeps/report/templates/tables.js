// A click on a column's head sorts its table, the largest first; a second click, the smallest.
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  return /^[+-]?\d/.test(text) ? parseFloat(text) : text;
};
const isMissing = (value) => value === "" || value === "\u2013";
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
const sort = (table, head, column) => {
  const way = head.ariaSort === "descending" ? 1 : -1;
  for (const each of head.parentNode.cells) each.ariaSort = null;
  head.ariaSort = way > 0 ? "ascending" : "descending";
  const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => isMissing(a) - isMissing(b) || way * compare(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.onclick = () => sort(table, head, column);
    head.append(button);
  });
}
// A table wider than its box says that it can be scrolled.
const seen = new ResizeObserver((boxes) => {
  for (const { target } of boxes)
    target.classList.toggle("wide", target.scrollWidth > target.clientWidth);
});
document.querySelectorAll(".scroll").forEach((box) => seen.observe(box));
