// A product of two numbers without a sign, four cycles later; a new one every cycle. Three times `a`; then a row for
// every two bits of `b`, 0 to 3 times `a`, and of three rows two, twice; then of three two as often as it takes; then
// the sum of the two that are left. So no cycle runs through carries and does much else.
module unit_multiply #(
  parameter int unsigned A = 32,
  parameter int unsigned B = 32
) (
  input  logic           clk,
  input  logic [A-1:0]   a,
  input  logic [B-1:0]   b,
  output logic [A+B-1:0] product
);
  localparam int unsigned ROWS = (B + 1) / 2;
  localparam int unsigned WIDTH = A + B;
  localparam int unsigned ONCE = ROWS - ROWS / 3;
  localparam int unsigned TWICE = ONCE - ONCE / 3;

  logic [2*ROWS-1:0] digits;
  logic [A-1:0] once;
  logic [A+1:0] thrice;
  logic [ROWS*WIDTH-1:0] rows;
  logic [TWICE*WIDTH-1:0] fewer, held;
  logic [2*WIDTH-1:0] two, pair;

  always_ff @(posedge clk) begin
    digits <= (2 * ROWS)'(b);
    once <= a;
    thrice <= (A + 2)'(a) + ((A + 2)'(a) << 1);
    held <= fewer;
    pair <= two;
    product <= pair[0+:WIDTH] + pair[WIDTH+:WIDTH];
  end
  for (genvar i = 0; i < ROWS; i++) begin : every_row
    logic [A+1:0] times;
    unit_pick #(.N(4), .WIDTH(A + 2)) pick_times (
      .entries({thrice, 1'b0, once, 1'b0, 2'b00, once, (A + 2)'(0)}), .index(digits[2*i+:2]), .entry(times)
    );
    assign rows[i*WIDTH+:WIDTH] = WIDTH'(times) << (2 * i);
  end
  unit_compress #(.ROWS(ROWS), .WIDTH(WIDTH), .LEFT(TWICE)) first (.rows, .left(fewer));
  unit_compress #(.ROWS(TWICE), .WIDTH(WIDTH), .LEFT(2)) second (.rows(held), .left(two));
endmodule

// Fewer rows with the same sum: of every three two, their sum without carries and the carries, again and again until
// there are LEFT.
module unit_compress #(
  parameter int unsigned ROWS = 3,
  parameter int unsigned WIDTH = 32,
  parameter int unsigned LEFT = 2
) (
  input  logic [ROWS*WIDTH-1:0] rows,
  output logic [LEFT*WIDTH-1:0] left
);
  localparam int unsigned THREES = ROWS / 3;
  localparam int unsigned NEXT = ROWS - THREES;

  if (ROWS == LEFT) begin : done
    assign left = rows;
  end else begin : level
    logic [NEXT*WIDTH-1:0] next;
    for (genvar i = 0; i < THREES; i++) begin : every_three
      wire [WIDTH-1:0] x = rows[3*i*WIDTH+:WIDTH];
      wire [WIDTH-1:0] y = rows[(3*i+1)*WIDTH+:WIDTH];
      wire [WIDTH-1:0] z = rows[(3*i+2)*WIDTH+:WIDTH];
      assign next[2*i*WIDTH+:WIDTH] = x ^ y ^ z;
      assign next[(2*i+1)*WIDTH+:WIDTH] = ((x & y) | (z & (x | y))) << 1;
    end
    if (NEXT > 2 * THREES) begin : rest
      assign next[NEXT*WIDTH-1:2*THREES*WIDTH] = rows[ROWS*WIDTH-1:3*THREES*WIDTH];
    end
    unit_compress #(.ROWS(NEXT), .WIDTH(WIDTH), .LEFT(LEFT)) again (.rows(next), .left);
  end
endmodule
