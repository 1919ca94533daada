// What the render test asks a drawn page; every function gives faults in words, or numbers.
({
// What is cut, covered or too wide, in words.
layout: () => {
    const name = e => {
        const marked = e.closest('[data-testid]');
        const own = e.tagName.toLowerCase() + (typeof e.className === 'string' && e.className
            ? '.' + e.className.trim().split(/\s+/)[0] : '');
        return (marked ? '[data-testid=' + marked.dataset.testid + '] ' : '') + own;
    };
    const said = e => JSON.stringify((e.textContent || '').trim().slice(0, 50));
    const faults = [];
    const wide = document.querySelector('[data-testid=stMain]');
    for (const e of [document.documentElement, wide]) {
        if (e && e.scrollWidth > e.clientWidth + 1) faults.push('scrolls sideways: ' + name(e));
    }
    const shown = e => {
        if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
        const r = e.getBoundingClientRect();
        return r.width > 2 && r.height > 2;
    };
    const main = wide || document.body;
    for (const e of main.querySelectorAll('*')) {
        if (e.closest('svg, canvas, [role=slider]') || !shown(e)) continue;
        const style = getComputedStyle(e);
        const holds = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!holds) continue;
        const hidden = s => s === 'hidden' || s === 'clip';
        if (hidden(style.overflowX) && e.scrollWidth > e.clientWidth + 1 && !e.title)
            faults.push('cut across: ' + name(e) + ' ' + said(e));
        if (hidden(style.overflowY) && e.scrollHeight > e.clientHeight + 3)
            faults.push('cut below: ' + name(e) + ' ' + said(e));
    }
    for (const chart of main.querySelectorAll('.js-plotly-plot')) {
        const box = chart.getBoundingClientRect();
        for (const text of chart.querySelectorAll('svg text')) {
            const r = text.getBoundingClientRect();
            if (r.width && (r.left < box.left - 1 || r.right > box.right + 1
                || r.top < box.top - 1 || r.bottom > box.bottom + 1))
                faults.push('cut by its chart: ' + said(text));
        }
    }
    const boxes = [];
    const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode, e = node.parentElement;
        if (!node.textContent.trim() || !shown(e) || e.closest('.modebar, .hoverlayer, style, script')) continue;
        if (e.closest('[role=slider], [data-testid=stSliderTickBar], .katex')) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const r of range.getClientRects()) {
            if (r.width > 2 && r.height > 2) boxes.push([e, node, r]);
        }
    }
    boxes.sort((a, b) => a[2].top - b[2].top);
    for (let i = 0; i < boxes.length; i++) {
        const [e, node, p] = boxes[i];
        for (let j = i + 1; j < boxes.length && boxes[j][2].top < p.bottom; j++) {
            const [f, other, q] = boxes[j];
            if (node === other || e.contains(f) || f.contains(e)) continue;
            const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (across > 2 && down > 0.35 * Math.min(p.height, q.height))
                faults.push('covered: ' + name(e) + ' ' + said(e) + ' and ' + said(f));
        }
    }
    return [...new Set(faults)];
},

// Texts of charts that are too faint on the page, by the contrast ratio of WCAG 2.
contrast: () => {
    const parse = c => (c.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    const over = (top, below) => {
        const alpha = top.length > 3 ? top[3] : 1;
        return [0, 1, 2].map(i => alpha * top[i] + (1 - alpha) * below[i]);
    };
    const luminance = rgb => {
        const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const page = parse(getComputedStyle(document.querySelector('.stApp')).backgroundColor);
    const faults = [];
    for (const text of document.querySelectorAll('.js-plotly-plot svg text')) {
        if (!text.getBoundingClientRect().width || text.closest('.modebar, .hoverlayer')) continue;
        const parts = text.querySelectorAll('tspan').length ? text.querySelectorAll('tspan') : [text];
        for (const part of parts) {
            if (!/[\p{L}\p{N}]/u.test(part.textContent)) continue;  // a mark, which is no text
            const style = getComputedStyle(part), ink = parse(style.fill);
            const alpha = (ink.length > 3 ? ink[3] : 1) * Number(style.fillOpacity || 1) * Number(style.opacity);
            let ground = page;
            const plate = text.parentElement.querySelector(':scope > rect.bg');
            if (plate) {
                const s = getComputedStyle(plate), fill = parse(s.fill);
                ground = over([...fill.slice(0, 3), (fill.length > 3 ? fill[3] : 1) * Number(s.fillOpacity)], page);
            }
            const [a, b] = [luminance(over([...ink.slice(0, 3), alpha], ground)), luminance(ground)];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
            const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
            if (ratio < needed) faults.push('contrast ' + ratio.toFixed(2) + ' in a chart: '
                + JSON.stringify(part.textContent.slice(0, 40)) + ' ' + style.fill);
        }
    }
    return [...new Set(faults)];
},

// Charts and images that say nothing to who cannot see them.
unnamed: () => [...document.querySelectorAll('[data-testid=stMain] .js-plotly-plot')].filter(chart => {
    const holder = chart.closest('[aria-label], [role=img], figure');
    return !holder || !(holder.getAttribute('aria-label') || '').trim();
}).map(chart => 'picture without a text: ' + (chart.textContent || '').slice(0, 50))
.concat([...document.querySelectorAll('[data-testid=stMain] img')].filter(i => !i.alt.trim())
    .map(i => 'picture without a text: ' + i.src.slice(-60))),

// Names of the controls that the keyboard has to reach; each gets its number.
controls: () => {
    const main = document.querySelector('[data-testid=stMain]'), groups = new Set();
    const group = e => e.closest('[role=radiogroup], [data-testid=stButtonGroup]');
    const wanted = [...main.querySelectorAll(
        'a[href], button, input, textarea, [role=slider], [role=combobox], summary')].filter(e => {
        if (e.disabled || e.tabIndex < 0 || e.type === 'file'
            || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})  // some come with the mouse
            || e.closest('[data-testid=stDataFrame], [data-testid=stElementToolbar], .modebar, h1, h2, h3'))
            return false;
        const own = group(e);  // one stop of Tab for all of it, the arrows go on from there
        if (own && groups.has(own)) return false;
        groups.add(own);
        return true;
    });
    return wanted.map((e, i) => {
        (group(e) || e).dataset.wanted = i;
        return e.tagName + ' ' + (e.getAttribute('aria-label') || e.textContent || e.value || '').slice(0, 40);
    });
},

// Where the keyboard is: number of the control, place in the document and on the page; null for nowhere.
focused: () => {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const main = document.querySelector('[data-testid=stMain]');
    const r = e.getBoundingClientRect(), marked = e.closest('[data-wanted]');
    return {
        place: [...document.querySelectorAll('*')].indexOf(e), main: main.contains(e),
        control: marked && Number(marked.dataset.wanted), left: r.left, right: r.right,
        top: r.top + main.scrollTop, bottom: r.bottom + main.scrollTop,
        what: e.tagName + ' ' + (e.getAttribute('aria-label') || e.textContent || '').slice(0, 40),
    };
},
})
