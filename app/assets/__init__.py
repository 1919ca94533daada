"""What a browser runs to draw a figure: ``chart.js``, the component of :mod:`app.widgets.chart`, and Plotly.

``plotly-basic.min.js`` is Plotly's own build with lines, points and bars alone, unchanged from the npm
package ``plotly.js-basic-dist-min`` 4.1.1; MIT licence, named in its first lines. A browser compiles it in a
quarter of the time that the whole library takes. A test holds its version to that of the Python package
``plotly``, whose figures it draws; ``npm pack plotly.js-basic-dist-min@VERSION`` fetches another.
"""
