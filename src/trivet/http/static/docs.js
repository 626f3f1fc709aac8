"use strict";
const box = document.querySelector("input[type=search]");
const found = document.querySelector("#found");
const items = [...document.querySelectorAll("[data-text]")];

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const item of items) {
    const fits = words.every((word) => item.dataset.text.includes(word));
    item.classList.toggle("hidden", !fits);
    if (fits && item.classList.contains("op")) count += 1;
  }
  for (const group of document.querySelectorAll("[data-group]")) {
    group.classList.toggle("hidden", !group.querySelector("[data-text]:not(.hidden)"));
  }
  found.textContent = words.length ? `${count} calls` : "";
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.classList.contains("hidden")) { box.value = ""; search(); }
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

box.addEventListener("input", search);
addEventListener("hashchange", openTarget);
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== box) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape" && document.activeElement === box) {
    box.value = "";
    search();
  }
});
search();
openTarget();
