// The tracker of a layer: after each token its levels, gain, phase and lock, bit for bit as `Tracker::update`. Off the
// critical path, so that it is small: a program of some 200 steps on one multiplier and one divider.
//
// A step takes three cycles, for its sources, for sums and shifts of them and for its result, and two more if it jumps;
// those that wait for a unit take longer.
module unit_tracker #(
  parameter int unsigned E = 256,
  parameter int unsigned ID = $clog2(E)
) (
  input  logic        clk,
  input  logic        rst_n,
  input  logic        start,
  output logic        done,
  // The registers' numbers; hold still.
  input  logic [31:0] process_noise,
  input  logic [31:0] reopened,
  input  logic [31:0] fast_gain,
  input  logic [4:0]  proportional_shift,
  input  logic [4:0]  integral_shift,
  input  logic [15:0] acquire_tokens,
  input  logic [7:0]  slack_16ths,
  input  logic [7:0]  threshold,
  input  logic [ID:0] experts,
  // What the token wanted: an entry the cycle after it was asked for.
  input  logic [6:0]  wanted_count,
  output logic [5:0]  wanted_index,
  input  logic [15:0] wanted_id,
  // Words of the layer's state.
  output logic        state_read,
  output logic        state_write,
  output logic [3:0]  state_word,
  output logic [31:0] state_data,
  input  logic [31:0] state_stored,
  // The levels.
  output logic        level_read,
  output logic        level_raise,
  output logic        level_sweep,
  output logic [ID-1:0] level_expert,
  output logic [5:0]  slow_shift,
  output logic [5:0]  fast_shift,
  output logic [31:0] slow_raise,
  output logic [31:0] fast_raise,
  input  logic        level_busy,
  input  logic [31:0] level_slow,
  // What was seen.
  output logic [31:0] snr,
  output logic [31:0] angle,
  output logic [1:0]  lock,
  output logic        lost_lock
);
  localparam logic [4:0] ADD = 5'd0, SUB = 5'd1, ADDU = 5'd2, SUBU = 5'd3, IADD = 5'd4, ISUB = 5'd5, SHL = 5'd6,
    SHR = 5'd7, SAR = 5'd8, MAX = 5'd9, MIN = 5'd10, ABS = 5'd11, LZ = 5'd12, MULH = 5'd13, MULS = 5'd14, SQRT = 5'd15,
    DIVF = 5'd16, DIVI = 5'd17, LDW = 5'd18, STW = 5'd19, LDID = 5'd20, LDL = 5'd21, RAISE = 5'd22, SWEEP = 5'd23,
    JEQ = 5'd24, JNE = 5'd25, JLTU = 5'd26, JGEU = 5'd27, JGES = 5'd28, CALL = 5'd29, RET = 5'd30, HALT = 5'd31;

  typedef enum logic [3:0] {IDLE, FETCH, DECODE, SOURCES, EXECUTE, RESULT, WAIT, ROOT, QUOTIENT, LEVELS} state_t;
  state_t state;
  logic [7:0] at, link;
  logic [54:0] stored, fetched, instruction;
  unit_tracker_program rom (.address(at), .instruction(stored));
  wire [4:0] op = instruction[54:50];
  wire [5:0] target = instruction[49:44];
  wire [31:0] number = instruction[31:0];

  // The numbers that change, those that do not, and the instruction's; the sources of a step, which are known by then.
  localparam int unsigned NUMBERS = 43;
  logic [32*32-1:0] numbers;
  logic [NUMBERS-1:0] uses_a, uses_b;
  logic [31:0] a, b, source_a, source_b;
  wire [32*NUMBERS-1:0] sources = {
    number, 32'(wanted_count), 32'(experts), 32'(threshold), 32'(slack_16ths), 32'(acquire_tokens),
    32'(integral_shift), 32'(proportional_shift), fast_gain, reopened, process_noise, numbers
  };
  always_comb begin
    {source_a, source_b} = '0;
    for (int unsigned i = 0; i < NUMBERS; i++) begin
      source_a = source_a | (sources[32*i+:32] & {32{uses_a[i]}});
      source_b = source_b | (sources[32*i+:32] & {32{uses_b[i]}});
    end
  end
  always_ff @(posedge clk) begin
    fetched <= stored;
    if (state == DECODE || state == RESULT) begin
      instruction <= fetched;
      for (int unsigned i = 0; i < NUMBERS; i++) begin
        uses_a[i] <= fetched[43:38] == (i == NUMBERS - 1 ? 6'd63 : 6'(i));
        uses_b[i] <= fetched[37:32] == (i == NUMBERS - 1 ? 6'd63 : 6'(i));
      end
    end
    if (state == SOURCES) {a, b} <= {source_a, source_b};
  end

  // Sums and shifts.
  logic [5:0] zeros;
  logic [32:0] total, rest;
  logic [31:0] other;
  logic equal, too_great;
  always_comb begin
    zeros = 6'd32;
    for (int unsigned i = 0; i < 32; i++) if (a[i]) zeros = 6'(31 - i);
  end
  always_ff @(posedge clk) begin
    total <= {1'b0, a} + {1'b0, b};
    rest <= {1'b0, a} - {1'b0, b};
    equal <= a == b;
    case (op)
      SHL: other <= a << b[4:0];
      SHR: other <= a >> b[4:0];
      SAR: other <= $signed(a) >>> b[4:0];
      LZ: other <= 32'(zeros);
      default: other <= a[31] ? ~a + 32'd1 : a;
    endcase
    too_great <= product[63:31] != '0;
  end
  wire less = rest[32];
  wire below = a[31] != b[31] ? a[31] : less;
  wire sum_overflows = a[31] == b[31] & total[31] != a[31];
  wire rest_overflows = a[31] != b[31] & rest[31] != a[31];
  wire [31:0] end_of_range = a[31] ? 32'h8000_0000 : 32'h7fff_ffff;

  // The multiplier; the divider, which finds 32 bits of {a, low} / b; and the root of a product, two bits at a time.
  logic [63:0] product, radicand;
  logic [31:0] root, quotient, low;
  logic [33:0] left;
  logic [5:0] steps;
  logic [2:0] wait_steps;
  logic [31:0] factor_a, factor_b, divisor;
  always_ff @(posedge clk) {factor_a, factor_b} <= {a, b};
  unit_multiply #(.A(32), .B(32)) multiplier (.clk, .a(factor_a), .b(factor_b), .product);
  wire [35:0] root_next = {left, radicand[63:62]};
  wire [35:0] root_trial = {2'd0, root, 2'b01};
  wire root_fits = root_next >= root_trial;
  wire [32:0] divide_next = {left[31:0], low[31]};
  wire divide_fits = divide_next >= {1'b0, divisor};

  logic [31:0] result;
  logic writes, jumps;
  always_comb begin
    result = total[31:0];
    case (op)
      SUB: result = rest[31:0];
      ADDU: result = total[32] ? 32'hffff_ffff : total[31:0];
      SUBU: result = less ? 32'd0 : rest[31:0];
      IADD: result = sum_overflows ? end_of_range : total[31:0];
      ISUB: result = rest_overflows ? end_of_range : rest[31:0];
      MAX: result = below ? b : a;
      MIN: result = below ? a : b;
      SHL, SHR, SAR, ABS, LZ: result = other;
      MULH: result = product[63:32];
      MULS: result = too_great ? 32'h7fff_ffff : product[31:0];
      SQRT: result = root;
      DIVF, DIVI: result = quotient;
      LDW: result = state_stored;
      LDID: result = 32'(wanted_id);
      LDL: result = level_slow;
      default: ;
    endcase
    jumps = 1'b0;
    case (op)
      JEQ: jumps = equal;
      JNE: jumps = ~equal;
      JLTU: jumps = less;
      JGEU: jumps = ~less;
      JGES: jumps = ~below;
      CALL, RET: jumps = 1'b1;
      default: ;
    endcase
  end
  assign writes = state == RESULT & (op < STW | op == LDID | op == LDL);
  for (genvar i = 0; i < 32; i++) begin : file
    always_ff @(posedge clk) if (writes && target[4:0] == 5'(i)) numbers[32*i+:32] <= result;
  end

  assign wanted_index = a[5:0];
  assign state_read = state == SOURCES;
  assign state_write = state == RESULT & op == STW;
  assign state_word = number[3:0];
  assign state_data = a;
  assign level_expert = a[ID-1:0];
  assign level_read = state == WAIT & op == LDL & wait_steps == 3'd0;
  assign level_raise = state == WAIT & op == RAISE & wait_steps == 3'd0;
  assign level_sweep = state == WAIT & op == SWEEP & wait_steps == 3'd0;
  assign slow_shift = numbers[32*21+:6];
  assign slow_raise = numbers[32*22+:32];
  assign fast_shift = numbers[32*23+:6];
  assign fast_raise = numbers[32*24+:32];
  assign angle = numbers[32*14+:32];
  assign snr = numbers[32*15+:32];
  assign lock = numbers[32*8+:2];
  assign lost_lock = numbers[32*20];

  always_ff @(posedge clk) begin
    if (state == WAIT) begin
      radicand <= product;
      divisor <= b;
      root <= '0;
      quotient <= '0;
      low <= op == DIVI ? a : '0;
      left <= op == DIVF ? 34'(a) : '0;
      steps <= '0;
    end else if (state == ROOT) begin
      radicand <= radicand << 2;
      root <= {root[30:0], root_fits};
      left <= root_fits ? 34'(root_next - root_trial) : root_next[33:0];
      steps <= steps + 6'd1;
    end else if (state == QUOTIENT) begin
      low <= low << 1;
      // Of a numerator that is not below the denominator the largest.
      quotient <= {quotient[30:0], divide_fits};
      left <= divide_fits ? 34'(divide_next - {1'b0, divisor}) : 34'(divide_next);
      steps <= steps + 6'd1;
      if (op == DIVF && !less) quotient <= 32'hffff_ffff;
    end
  end

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {at, link, wait_steps} <= '0;
      done <= 1'b0;
    end else begin
      done <= 1'b0;
      case (state)
        IDLE: if (start) begin
          state <= FETCH;
          at <= '0;
        end
        FETCH: state <= DECODE;
        DECODE: state <= SOURCES;
        // The next step is on its way by the time that this one is done.
        SOURCES: begin
          wait_steps <= '0;
          at <= at + 8'd1;
          case (op)
            MULH, MULS, SQRT, DIVF, DIVI, LDID, LDL, RAISE, SWEEP: state <= WAIT;
            default: state <= EXECUTE;
          endcase
        end
        EXECUTE: state <= RESULT;
        WAIT: begin
          wait_steps <= wait_steps + 3'd1;
          case (op)
            LDID, LDL: if (wait_steps == 3'd1) state <= RESULT;
            RAISE, SWEEP: if (wait_steps == 3'd0) state <= LEVELS;
            DIVF, DIVI: state <= QUOTIENT;
            default: if (wait_steps == 3'd6) state <= op == SQRT ? ROOT : RESULT;
          endcase
        end
        ROOT, QUOTIENT: if (steps == 6'd31) state <= RESULT;
        LEVELS: if (!level_busy) state <= RESULT;
        default: begin
          state <= op == HALT ? IDLE : jumps ? FETCH : SOURCES;
          done <= op == HALT;
          if (op == CALL) link <= at;
          if (jumps) at <= op == RET ? link : number[7:0];
        end
      endcase
    end
  end
endmodule
