// SPDX-License-Identifier: Apache-2.0
// Draws the report's plots, and keeps film, slider, cursor and values at one time of the episode.
"use strict";

const drawn = JSON.parse(document.getElementById("drawn").textContent);
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const MARGIN = { l: 62, r: 12, t: 8, b: 38 };
const ROW_PX = 110;
const CONFIG = { responsive: true, displayModeBar: false };

async function loadPlotly() {
  const packed = atob(document.getElementById("plotly").textContent.trim());
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function commonLayout(height) {
  return {
    height,
    margin: MARGIN,
    dragmode: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 12 },
    hoverlabel: { bgcolor: colour("page"), font: { color: colour("text") } },
  };
}

function axis(more) {
  return { gridcolor: colour("line"), zerolinecolor: colour("line"), fixedrange: true, ...more };
}

function drawLatencies() {
  const traces = drawn.latencies.map((series, index) => ({
    x: series.y.map((_, number) => number + 1),
    y: series.y,
    text: series.text,
    name: series.name,
    mode: "lines+markers",
    marker: { size: 5, color: colour(`series-${index}`) },
    line: { width: 1 },
    hovertemplate: "%{text}: %{y:.1f} ms<extra></extra>",
  }));
  Plotly.react("latency", traces, {
    ...commonLayout(360),
    xaxis: axis({ title: { text: "chunk of the run" } }),
    yaxis: axis({ title: { text: "ms, wall time" }, rangemode: "tozero" }),
    legend: { orientation: "h", y: 1, yanchor: "bottom" },
    margin: { ...MARGIN, t: 50 },
  }, CONFIG);
}

// One episode: rows over one time axis, a film and a slider. `time_s` is the only state.
class Story {
  constructor() {
    this.choice = document.getElementById("episode");
    this.film = document.getElementById("film");
    this.slider = document.getElementById("time");
    this.rows = document.getElementById("rows");
    this.cursor = document.getElementById("cursor");
    this.now = document.getElementById("now");
    this.time_s = 0;
    drawn.stories.forEach((story, index) => this.choice.add(new Option(story.title, index)));
    this.choice.addEventListener("change", () => this.show(Number(this.choice.value)));
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value), true));
    for (const name of ["pointerdown", "pointermove"]) {
      this.rows.addEventListener(name, (event) => {
        if (event.buttons & 1) this.moveTo(this.timeAt(event.clientX), true);
      });
    }
    this.film.addEventListener("loadedmetadata", () => this.moveTo(this.time_s, true));
    this.followFilm();
    addEventListener("resize", () => this.placeCursor());
  }

  show(index) {
    this.story = drawn.stories[index];
    this.choice.value = index;
    this.film.hidden = this.story.video === null;
    if (this.story.video !== null) this.film.src = encodeURIComponent(this.story.video);
    this.slider.max = this.story.duration_s;
    this.draw();
    this.moveTo(0, false);
  }

  draw() {
    const { rows, duration_s } = this.story;
    const layout = {
      ...commonLayout(rows.length * ROW_PX + MARGIN.t + MARGIN.b),
      showlegend: false,
      hovermode: "closest",
      bargap: 0.6,
      xaxis: axis({ range: [0, duration_s], title: { text: "s" }, anchor: `y${rows.length}` }),
    };
    const traces = rows.flatMap((row, index) => {
      const name = index ? `${index + 1}` : "";
      const top = 1 - index / rows.length;
      layout[`yaxis${name}`] = axis({
        domain: [top - 0.88 / rows.length, top],
        title: { text: row.unit ? `${row.title},<br>${row.unit}` : row.title, font: { size: 11 } },
        nticks: 4,
        ...(row.unit ? {} : { range: [-0.5, 1.5], tickvals: [0, 1], ticktext: ["change", "hold"] }),
      });
      return row.series.map((series, number) => this.trace(series, `y${name}`, number));
    });
    Plotly.react(this.rows, traces, layout, CONFIG);
    this.placeCursor();
  }

  trace(series, yaxis, number) {
    const shade = colour(`series-${number}`);
    const looks = {
      line: { type: "scatter", mode: "lines", line: { color: shade } },
      mark: { type: "scatter", mode: "markers", marker: { color: shade, symbol: "line-ns-open", size: 14 } },
      bar: { type: "bar", marker: { color: shade }, width: 0.03 },
      event: { type: "scatter", mode: "markers", marker: { color: shade, size: 9 } },
    };
    const value = series.text.length ? "%{text}" : "%{y:.4g}";
    return {
      ...looks[series.kind],
      x: series.x,
      y: series.y,
      text: series.text,
      yaxis,
      name: series.name,
      textposition: "none",
      hovertemplate: `${series.name} at %{x:.2f} s: ${value}<extra></extra>`,
    };
  }

  moveTo(time_s, movesFilm) {
    this.time_s = Math.min(Math.max(time_s, 0), this.story.duration_s);
    this.slider.value = this.time_s;
    this.placeCursor();
    this.tell();
    if (movesFilm && this.film.duration) this.film.currentTime = this.filmTime();
  }

  // The middle of the newest frame that was taken by now.
  filmTime() {
    const times = this.story.video_times_s;
    const frame = Math.max(times.findLastIndex((taken_s) => taken_s <= this.time_s + 1e-6), 0);
    return ((frame + 0.5) * this.film.duration) / times.length;
  }

  followFilm() {
    const times = () => this.story.video_times_s;
    this.film.addEventListener("timeupdate", () => {
      if (this.film.paused || !times().length) return;
      const frame = Math.floor((this.film.currentTime / this.film.duration) * times().length);
      this.moveTo(times()[Math.min(frame, times().length - 1)], false);
    });
  }

  plotWidth() {
    return this.rows.clientWidth - MARGIN.l - MARGIN.r;
  }

  timeAt(clientX) {
    const pixels = clientX - this.rows.getBoundingClientRect().left - MARGIN.l;
    return (pixels / this.plotWidth()) * this.story.duration_s;
  }

  placeCursor() {
    if (!this.story) return;
    const share = this.story.duration_s ? this.time_s / this.story.duration_s : 0;
    this.cursor.style.left = `${MARGIN.l + share * this.plotWidth()}px`;
  }

  // The newest value of each series, and the events of the last half second.
  tell() {
    const texts = [`${this.time_s.toFixed(2)} s`];
    for (const row of this.story.rows) {
      for (const series of row.series) {
        const last = series.x.findLastIndex((x_s) => x_s <= this.time_s + 1e-6);
        if (last < 0) continue;
        const isOld = series.x[last] < this.time_s - 0.5;
        if (series.kind === "event") {
          if (!isOld) texts.push(`${series.name}: ${series.text[last]}`);
        } else if (series.kind === "bar") {
          texts.push(`${series.name} ${last + 1}: ${series.y[last].toFixed(1)} ${row.unit}`);
        } else if (series.kind === "line") {
          texts.push(`${series.name}: ${series.y[last].toPrecision(3)} ${row.unit}`);
        }
      }
    }
    this.now.replaceChildren(...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  }
}

loadPlotly().then(() => {
  const story = drawn.stories.length ? new Story() : null;
  drawLatencies();
  story?.show(0);
  darkMode.addEventListener("change", () => { drawLatencies(); story?.draw(); });
  document.documentElement.dataset.drawn = "true";
}).catch((error) => {
  document.getElementById("undrawn").hidden = false;
  throw error;
});
