"""What a browser runs to draw a figure: ``chart.js``, the component of :mod:`app.widgets.chart`, and Plotly.

``plotly-basic.min.js`` is Plotly's own build with lines, points and bars alone, unchanged from the npm
package ``plotly.js-basic-dist-min`` 4.1.1; MIT licence, named in its first lines. It is a quarter as large as
the whole library, all of which a browser compiles before the first picture. A test holds its version to that
of the Python package ``plotly``, whose figures it draws; ``npm pack plotly.js-basic-dist-min@VERSION``
fetches another.
"""
