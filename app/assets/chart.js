// Draws one figure with Plotly: made once, then changed in place whenever the page sends another.

const SOURCE = new URL("assets/plotly-basic.min.js", window.__streamlit?.BACKEND_BASE_URL ?? document.baseURI).href;

// The library, asked for once by whichever chart comes first.
function library() {
  window.plotlyLoaded ??= new Promise((loaded, failed) => {
    const script = document.createElement("script");
    script.src = SOURCE;
    script.onload = () => loaded(window.Plotly);
    script.onerror = () => failed(new Error(`cannot load ${SOURCE}`));
    document.head.append(script);
  });
  return window.plotlyLoaded;
}

const followed = new ResizeObserver((changes) => {
  for (const { target, contentRect } of changes) {
    const layout = target._fullLayout;
    if (layout && contentRect.width && Math.abs(layout.width - contentRect.width) > 1) window.Plotly.Plots.resize(target);
  }
});

export default function ({ data, parentElement }) {
  const place = parentElement.querySelector(".chart");
  const { alt, config, figure, height } = data;
  place.setAttribute("aria-label", alt);
  place.style.height = `${height}px`; // its room, before the library is there
  const asked = figure + JSON.stringify(config);
  if (place.asked !== asked) {
    place.asked = asked;
    library().then((Plotly) => {
      if (place.asked !== asked || !place.isConnected) return; // a later figure has come in between
      const { data: traces, layout } = JSON.parse(figure);
      Plotly.react(place, traces, layout, config).then(() => followed.observe(place));
    });
  }
  return () => {
    followed.unobserve(place);
    window.Plotly?.purge(place);
    delete place.asked;
  };
}
