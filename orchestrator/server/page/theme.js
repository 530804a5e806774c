// Colours: as the system, light or dark. A classic script, so that nothing is drawn in the wrong ones first.
(() => {
  const root = document.documentElement;
  const kept = () => { try { return localStorage.getItem("theme") || ""; } catch { return ""; } };
  const apply = (name) => {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    window.dispatchEvent(new Event("theme"));
  };
  apply(kept());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("theme")));
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = kept();
    choice.addEventListener("change", () => {
      try { localStorage.setItem("theme", choice.value); } catch { /* it holds for this page only */ }
      apply(choice.value);
    });
  });
})();
