
"use strict";

// The titles of the columns become buttons that sort the table.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const titles = [...table.querySelectorAll("thead th")];

  const sort = (column, isAscending) => {
    const isNumber = titles[column].classList.contains("number");
    const value = (row) => row.cells[column].dataset.value;
    const order = (one, other) =>
      isNumber ? one - other : one.localeCompare(other, undefined, { numeric: true });
    const compare = (one, other) => {
      const [first, second] = [value(one), value(other)];
      // Packages without a value stay at the end.
      if (first === "" || second === "") {
        return (first === "") - (second === "");
      }
      return isAscending ? order(first, second) : order(second, first);
    };
    body.append(...[...body.rows].sort(compare));
    titles.forEach((title) => title.removeAttribute("aria-sort"));
    titles[column].setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  };

  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const sorted = title.getAttribute("aria-sort");
      // Large numbers are the interesting ones.
      const isAscending = sorted ? sorted === "descending" : !title.classList.contains("number");
      sort(column, isAscending);
    });
  });
}

// A link to a log opens it, in browsers that do not open it themselves.
const openTarget = () => {
  const details = document.getElementById(location.hash.slice(1))?.closest("details");
  if (details) {
    details.open = true;
  }
};
window.addEventListener("hashchange", openTarget);
openTarget();
