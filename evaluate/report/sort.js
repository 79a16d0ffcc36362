"use strict";
// Click or Enter on a column's head sorts its table; without JavaScript the tables stand as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return /^[-−]?[\d.]/.test(text) && !Number.isNaN(number) ? number : text === "–" ? null : text;
  };
  const compare = (a, b) =>
    a === null ? (b === null ? 0 : 1)
    : b === null ? -1
    : typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b));
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const rows = [...body.rows];
      rows.sort((x, y) => {
        const a = value(x, column), b = value(y, column);
        return a === null || b === null ? compare(a, b) : down ? compare(b, a) : compare(a, b);
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
