// Runs before the page is drawn, so that it is never drawn in the other theme first.
document.documentElement.dataset.theme = localStorage.getItem("decant.theme") ?? "auto";
