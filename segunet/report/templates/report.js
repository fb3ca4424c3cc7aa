// Sorting: a click on a heading, ascending first; what is undefined stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      sort(table.tBodies[0], column, direction === "ascending" ? 1 : -1);
    });
  });
}

// Enlarging: a click on an image shows it as large as the window allows; a click or Escape closes it.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.enlarge")) {
  button.addEventListener("click", () => {
    dialog.replaceChildren(button.querySelector("img").cloneNode());
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());

function sort(body, column, sign) {
  const value = (row) => row.cells[column].dataset.value;
  const compare = (one, other) => {
    if (!value(one) || !value(other)) return !value(one) - !value(other);
    return sign * (value(one) - value(other) || value(one).localeCompare(value(other)));
  };
  body.append(...[...body.rows].sort(compare));
}
