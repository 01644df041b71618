// Draws each figure of a page from the JSON beside its container.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".hrsa-plotly")) {
    const figure = JSON.parse(place.parentElement.querySelector(`script.${place.dataset.figure}`).textContent);
    delete figure.layout.width;  // fixed in notebooks; here the figure follows the column
    Plotly.newPlot(place, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      showSendToCloud: false,  // its button would upload the chart
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    });
  }
});
