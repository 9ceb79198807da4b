// Puts what the server sends in the place of the page's body; keeps what the reader opened.
"use strict";
const main = document.getElementById("main");
const lamp = document.getElementById("live");
const source = new EventSource(document.currentScript.dataset.events);

// A fold is known by its heading, and by which one of that heading it is.
const folds = () => {
  const seen = new Map();
  return [...main.querySelectorAll("details")].map((fold) => {
    const text = fold.querySelector("summary").textContent;
    seen.set(text, (seen.get(text) || 0) + 1);
    return [`${seen.get(text)} ${text}`, fold];
  });
};

source.addEventListener("body", (event) => {
  const opened = new Map(folds().map(([key, fold]) => [key, fold.open]));
  const places = [...main.querySelectorAll(".scroll")].map((e) => [e.scrollLeft, e.scrollTop]);
  main.innerHTML = JSON.parse(event.data);
  for (const [key, fold] of folds()) {
    if (opened.has(key)) fold.open = opened.get(key);
  }
  main.querySelectorAll(".scroll").forEach((e, n) => {
    if (places[n]) [e.scrollLeft, e.scrollTop] = places[n];
  });
});
source.onopen = () => lamp.classList.add("on");
source.onerror = () => lamp.classList.remove("on");
source.addEventListener("end", () => {
  source.close();
  lamp.textContent = "the server has ended";
  lamp.classList.remove("on");
});
